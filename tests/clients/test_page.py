"""The page at `/` in a real browser: what people do with it, and what goes wrong.

With DS4_SHOTS set to a folder, pictures of the page are left there to be looked at.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from common import BASE, QUESTION, WEATHER
from slow_line import SlowLine

AXE = Path(os.environ["DS4_CLIENTS"]) / "node_modules/axe-core/axe.min.js"
SHOTS = os.environ.get("DS4_SHOTS")
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": WEATHER}}]
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("DS4_CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def line():
    return SlowLine(urlsplit(BASE).port)


@pytest.fixture
def context(browser, line):
    line.pause = 0.0
    line.mend()
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context, line):
    """The page, opened; what it reports as broken or forbidden fails the test."""
    page = context.new_page()
    page.broken = []
    page.on("pageerror", lambda error: page.broken.append(str(error)))
    page.on("console", lambda said: page.broken.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(line.url)
    expect(page.locator("#model")).not_to_be_empty()
    yield page
    assert not page.broken


def say(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answers(page):
    return page.locator("article.assistant")


def finished(page, nth=-1):
    """The nth answer, when it is complete."""
    answer = answers(page).nth(nth)
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    return answer


def choose_thinking(page, choice):
    page.locator("#thinking").select_option(choice)


def set_up(page, **values):
    page.get_by_role("button", name="Settings").click()
    for label, value in values.items():
        page.locator(f'#settings [name="{label}"]').fill(value)
    page.get_by_role("button", name="Save").click()


def picture(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def slowly(page, line, text):
    """Asks with words coming slowly; returns when the first of them are there."""
    line.pause = 0.05
    say(page, text)
    expect(answers(page).last.locator(".text")).not_to_be_empty()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()


def test_an_answer_is_typed_for_and_streams_in(page, line):
    picture(page, "empty")
    choose_thinking(page, "off")
    slowly(page, line, "Count from 1 to 200.")
    words = answers(page).last.locator(".text")
    early = words.inner_text()
    picture(page, "amid")
    expect(words).not_to_have_text(early)
    line.pause = 0.0
    answer = finished(page)
    assert answer.locator(".text").inner_text().startswith(early.strip()[:3])
    expect(answer.locator(".cost")).to_contain_text("tokens/s")
    expect(page.get_by_label("Message", exact=True)).to_be_empty()
    picture(page, "answered")


def test_thinking_is_folded_and_can_be_opened(page):
    choose_thinking(page, "on")
    say(page, "What is 12 + 30?")
    thought = finished(page).locator("details.thought")
    expect(thought.locator("summary")).to_contain_text("Thought for")
    expect(thought.locator(".thought-text")).to_be_hidden()
    thought.locator("summary").click()
    expect(thought.locator(".thought-text")).not_to_be_empty()
    picture(page, "thought")


def test_stop_keeps_what_was_said_and_it_can_go_on(page, line):
    choose_thinking(page, "off")
    slowly(page, line, "Count from 1 to 200.")
    page.keyboard.press("Escape")
    answer = finished(page)
    line.pause = 0.0
    expect(answer.locator(".ended")).to_have_text("Stopped.")
    said = answer.locator(".text").inner_text()
    assert said
    answer.get_by_role("button", name="Continue").click()
    expect(answer.locator(".ended")).to_have_count(0)
    longer = finished(page).locator(".text").inner_text()
    assert longer.startswith(said) and len(longer) > len(said)


def test_regenerate_and_edit_keep_the_versions_before(page):
    choose_thinking(page, "off")
    say(page, "What is 12 + 30?")
    finished(page).get_by_role("button", name="Regenerate").click()
    answer = finished(page)
    expect(answer).to_contain_text("2 / 2")
    page.locator("article.user").get_by_role("button", name="Edit").click()
    page.locator("article.user textarea").fill("What is 5 + 6?")
    page.locator("article.user").get_by_role("button", name="Send").click()
    expect(page.locator("article.user .text")).to_have_text("What is 5 + 6?")
    finished(page)
    expect(page.locator("article.user")).to_contain_text("2 / 2")
    page.locator("article.user").get_by_role("button", name="The version before").click()
    expect(page.locator("article.user .text")).to_have_text("What is 12 + 30?")
    expect(answers(page)).to_contain_text("42")


def test_conversations_are_kept_found_renamed_and_deleted(page):
    choose_thinking(page, "off")
    say(page, "What is 12 + 30?")
    finished(page)
    page.get_by_role("button", name="New chat").first.click()
    expect(answers(page)).to_have_count(0)
    say(page, "Hello!")
    finished(page)
    page.reload()
    names = page.locator("#conversations .name")
    expect(names).to_have_text(["Hello!", "What is 12 + 30?"])
    expect(answers(page)).to_have_count(1)
    page.get_by_label("Search conversations").fill("12 +")
    expect(names).to_have_text(["What is 12 + 30?"])
    names.first.click()
    expect(answers(page)).to_contain_text("42")
    page.once("dialog", lambda dialog: dialog.accept("A sum"))
    page.get_by_label("Search conversations").fill("")
    page.get_by_role("button", name="Rename What is 12 + 30?").click()
    expect(page.locator("#title")).to_have_text("A sum")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete A sum").click()
    expect(names).to_have_text(["Hello!"])


def test_conversations_travel_as_files(page, tmp_path):
    choose_thinking(page, "off")
    say(page, "What is 12 + 30?")
    finished(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "kept.json"
    download.value.save_as(file)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete What is 12 + 30?").click()
    expect(page.locator("#conversations .name")).to_have_count(0)
    page.locator("#import-file").set_input_files(file)
    page.locator("#conversations .name").click()
    expect(answers(page)).to_contain_text("42")
    # Not every file is one.
    broken = json.loads(file.read_text())
    for message in broken["conversations"][0]["messages"].values():
        message["parent"] = message["id"]
    file.write_text(json.dumps(broken))
    page.locator("#import-file").set_input_files(file)
    expect(page.get_by_role("alert").first).to_contain_text("damaged")


def test_a_page_left_amid_an_answer_keeps_what_came(page, line):
    choose_thinking(page, "off")
    # All of it takes some seconds; the page keeps what came more often than once in one.
    line.pause = 0.25
    say(page, "Count from 1 to 200.")
    expect(answers(page).last.locator(".text")).to_contain_text(re.compile(r"\d, \d"))
    page.wait_for_timeout(1500)
    # Left first and then opened again, since a quick line would bring the rest before a reload.
    page.goto("about:blank")
    line.pause = 0.0
    page.goto(line.url)
    answer = finished(page)
    expect(answer.locator(".problem")).to_contain_text("page was closed")
    expect(answer.locator(".text")).to_contain_text(re.compile(r"\d, \d"))
    answer.get_by_role("button", name="Try again").click()
    expect(finished(page).locator(".problem")).to_have_count(0)


def test_a_lost_connection_is_said_and_can_be_tried_again(page, line):
    choose_thinking(page, "off")
    slowly(page, line, "Count from 1 to 200.")
    line.cut()
    answer = finished(page)
    expect(answer.locator(".problem")).to_contain_text("connection was lost")
    answer.get_by_role("button", name="Try again").click()
    expect(finished(page).locator(".problem")).to_contain_text("server does not answer")
    picture(page, "error")
    line.mend()
    line.pause = 0.0
    finished(page).get_by_role("button", name="Try again").click()
    expect(finished(page).locator(".problem")).to_have_count(0)


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(page):
    say(page, "word " * 9000)
    expect(finished(page).locator(".problem")).to_contain_text(re.compile(r"\d+ tokens"))


def test_a_tool_is_called_and_its_answer_used(page):
    choose_thinking(page, "off")
    set_up(page, tools=json.dumps(TOOLS))
    say(page, QUESTION)
    call = finished(page).locator(".call")
    expect(call).to_contain_text("get_weather")
    expect(call).to_contain_text("Paris")
    picture(page, "call")
    call.get_by_role("textbox").fill('{"temperature": 21, "sky": "sunny"}')
    call.get_by_role("button", name="Return it").click()
    expect(answers(page)).to_have_count(2)
    expect(page.locator("article.tool")).to_contain_text("sunny")
    expect(finished(page).locator(".text")).not_to_be_empty()
    picture(page, "returned")


def test_wrong_settings_are_not_saved(page):
    set_up(page, tools="{not json")
    expect(page.locator("#settings-error")).to_contain_text("no JSON")
    page.get_by_role("button", name="Cancel").click()
    set_up(page, system="Be brief.", temperature="0", stop="xyz", max_tokens="3")
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "completions" in request.url else None)
    say(page, "Hello!")
    expect(finished(page).locator(".ended")).to_contain_text("longest")
    assert sent[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent[0]["temperature"], sent[0]["stop"], sent[0]["max_tokens"]) == (0, ["xyz"], 3)


def test_the_panel_shows_what_was_known_and_why_not_more(page):
    choose_thinking(page, "off")
    say(page, "What is 12 + 30?")
    finished(page)
    say(page, "What is 5 + 6?")
    finished(page)
    expect(page.locator("#live-cache")).to_contain_text(re.compile(r"[1-9]\d* of \d+ tokens"))
    expect(page.locator("#live-miss")).to_contain_text("read before")
    expect(page.locator("#live-decode")).to_contain_text("tokens/s")
    expect(page.locator("#live-context")).to_contain_text(re.compile(r"\d+ of [\d,]+"))
    expect(page.locator("#live-queue")).to_contain_text("of at most")


def test_what_looks_like_html_stays_text(page):
    hostile = '<img src=x onerror="window.hit=1"><script>window.hit=1</script> [x](javascript:window.hit=1)'
    page.evaluate(
        """async (text) => {
            const { show } = await import("/page/markdown.js");
            const box = document.createElement("div");
            box.id = "box";
            document.getElementById("thread").append(box);
            show(box, text + "\\n\\n```html\\n" + text + "\\n```\\n\\n| a |\\n|---|\\n| " + text + " |");
        }""",
        hostile,
    )
    say(page, hostile)
    finished(page)
    assert page.evaluate("window.hit") is None
    assert page.locator("#box img, #box script, #thread img, #thread script, a[href^=javascript]").count() == 0
    expect(page.locator("article.user .text")).to_have_text(hostile)


def test_markdown_becomes_what_it_means(page):
    text = """# Title

Some *soft*, **bold**, `code`, ~~gone~~ and [a link](https://example.org/a_b) and 2 * 3 * 4, snake_case_name.

- one
  - inner
- two

3. three
4. four

> quoted

| a | b |
|---|---|
| 1 | 2 |

```rust
fn main() { let x = "**not bold**"; }
"""
    made = page.evaluate(
        """async (text) => {
            const { show } = await import("/page/markdown.js");
            const whole = document.createElement("div"), grown = document.createElement("div");
            show(whole, text);
            for (let at = 0; at <= text.length; at++) show(grown, text.slice(0, at));
            return [whole.innerHTML, grown.innerHTML];
        }""",
        text,
    )
    assert made[0] == made[1]
    for part in [
        "<h3>Title</h3>", "<em>soft</em>", "<strong>bold</strong>", "<code>code</code>", "<s>gone</s>",
        'href="https://example.org/a_b"', "2 * 3 * 4, snake_case_name", "<li>one<ul><li>inner</li></ul></li>",
        '<ol start="3"><li>three</li><li>four</li></ol>', "<blockquote><p>quoted</p></blockquote>",
        "<td>1</td>", "**not bold**",
    ]:
        assert part in made[0], part


def test_a_key_is_asked_for_once(browser, tmp_path):
    file = tmp_path / "key"
    file.write_text("open sesame\n")
    file.chmod(0o600)
    serve = [os.environ["DS4_PROGRAM"], "serve", "--port", "0", "--api-key-file", str(file), "-m", os.environ["DS4_POCKET"]]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = next(line.split()[-1] for line in server.stderr if line.startswith("listening on "))
            next(line for line in server.stderr if line.startswith("ready:"))
            context = browser.new_context(viewport=WIDE)
            page = context.new_page()
            page.goto(url)
            dialog = page.get_by_role("dialog")
            for key in ["wrong", "open sesame"]:
                expect(dialog).to_be_visible()
                dialog.get_by_label("API key").fill(key)
                dialog.get_by_role("button", name="Use it").click()
                page.wait_for_load_state("networkidle")
            expect(page.locator("#model")).not_to_be_empty()
            expect(dialog).to_have_count(0)
            choose_thinking(page, "off")
            say(page, "What is 12 + 30?")
            expect(finished(page)).to_contain_text("42")
            context.close()
        finally:
            server.terminate()


def test_it_can_be_used_with_keys_alone(page):
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("What is 12 + 30?")
    page.keyboard.press("Enter")
    finished(page)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent || document.activeElement.name"))
    assert {"new-chat", "search", "toggle-theme", "open-settings", "attach", "thinking", "Regenerate", "Edit"} <= reached
    page.locator("#open-settings").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#open-settings")).to_be_focused()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_fits_and_everybody_can_read_it(page, theme, size):
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=theme)
    picture(page, f"{theme}-{size['width']}-empty")
    say(page, "What is 12 + 30?")
    finished(page).locator("summary").click()
    page.evaluate(
        """async () => {
            const { show } = await import("/page/markdown.js");
            show(document.querySelector("article.assistant .text"),
                 "## A table\\n\\n| name | value |\\n|---|---|\\n| " + "wide ".repeat(40) + "| 1 |\\n\\n" +
                 "```rust\\nfn main() { println!(\\"" + "long ".repeat(40) + "\\"); }\\n```\\n\\n- a list\\n- with `code` and [a link](https://example.org)");
        }"""
    )
    picture(page, f"{theme}-{size['width']}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth && document.getElementById('scroller').scrollWidth <= document.getElementById('scroller').clientWidth")
    # Injected past the page's policy, which lets no script in.
    page.evaluate(AXE.read_text() + "; null")
    for dialog in [False, True]:
        if dialog:
            page.get_by_role("button", name="Settings").click()
            picture(page, f"{theme}-{size['width']}-settings")
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        bad = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert not bad
    page.keyboard.press("Escape")
    if size is PHONE:
        page.get_by_role("button", name="Conversations", exact=True).click()
        expect(page.get_by_role("button", name="New chat", exact=True)).to_be_focused()
        picture(page, f"{theme}-{size['width']}-drawer")


def test_the_theme_can_be_chosen_and_stays(page):
    page.emulate_media(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Theme: automatic").click()
    assert page.evaluate(ground) != dark
    page.reload()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    assert page.evaluate(ground) != dark
