"""The official libraries for Python, fed with recorded transcripts: what they put together from a stream is what they read
in one piece, and that is what was said."""

import json

import anthropic
import httpx2
import openai
import pytest

from goldens import CALLS, FAILURES, PLAIN, client, plain, whole_of

SAID = {"text": "Hello, wörld 🦀", "reasoning": "Hello", "stop_string": "one", "context_full": "so mu", "call": "ok"}
HI = [{"role": "user", "content": "Hi"}]
BERN = {"city": "Bern", "days": [1, 2]}


def of_openai(name):
    return openai.OpenAI(base_url="http://recorded/v1", api_key="any", max_retries=0, http_client=client(name))


def of_anthropic(name):
    return anthropic.Anthropic(base_url="http://recorded", api_key="any", max_retries=0, http_client=client(name, httpx2))


def calls_of(message):
    return [(call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


@pytest.mark.parametrize("course", PLAIN + CALLS)
def test_chat(course):
    library = of_openai(f"chat_{course}")
    whole = library.chat.completions.create(model="x", messages=HI)
    with library.chat.completions.stream(model="x", messages=HI) as stream:
        for _ in stream:
            pass
        streamed = stream.current_completion_snapshot
    first, second = whole.choices[0], streamed.choices[0]
    for get in (
        lambda choice: choice.finish_reason,
        lambda choice: choice.message.content or None,
        lambda choice: getattr(choice.message, "reasoning_content", None),
        lambda choice: calls_of(choice.message),
    ):
        assert get(first) == get(second)
    assert plain(whole.usage) == plain(streamed.usage)
    assert (first.message.content or "") == SAID.get(course, "")
    assert [call[1:] for call in calls_of(first.message)] == {"calls": [("get_weather", BERN), ("get_weather", {})]}.get(
        course, [("get_weather", BERN)] if course in CALLS else [])


def test_chat_choices():
    chunks = of_openai("chat_choices").chat.completions.create(model="x", messages=HI, stream=True)
    texts, tokens = {}, {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            entries = choice.logprobs.content or [] if choice.logprobs else []
            tokens.setdefault(choice.index, []).extend(entry.token for entry in entries)
    assert texts == {0: "ab", 1: "ab"} and {at: "".join(said) for at, said in tokens.items()} == texts


def test_a_call_that_is_cut_off():
    """A stream has told half of it; the answer in one piece leaves it out, and neither is carried out."""
    library = of_openai("chat_cut_call")
    whole = library.chat.completions.create(model="x", messages=HI).choices[0]
    chunks = list(library.chat.completions.create(model="x", messages=HI, stream=True))
    assert whole.finish_reason == chunks[-2].choices[0].finish_reason == "length" and not whole.message.tool_calls
    last = list(of_openai("responses_cut_call").responses.create(model="x", input="Hi", stream=True))[-1]
    assert last.type == "response.incomplete" and [item.type for item in last.response.output] == ["message"]
    message = of_anthropic("messages_cut_call").messages.create(model="x", max_tokens=9, messages=HI)
    assert message.stop_reason == "max_tokens" and [block.type for block in message.content] == ["text"]


@pytest.mark.parametrize("course", ["text", "stop_string", "context_full"])
def test_completions(course):
    library = of_openai(f"completions_{course}")
    whole = library.completions.create(model="x", prompt="Hi")
    chunks = list(library.completions.create(model="x", prompt="Hi", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    finish = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert finish == [whole.choices[0].finish_reason] and plain(chunks[-1].usage) == plain(whole.usage)


@pytest.mark.parametrize("course", PLAIN + CALLS + ["other_kinds"])
def test_responses(course):
    library = of_openai(f"responses_{course}")
    whole = library.responses.create(model="x", input="Hi")
    events = list(library.responses.create(model="x", input="Hi", stream=True))
    last = events[-1].response
    for name in ("output", "status", "usage", "incomplete_details", "tools"):
        assert plain(getattr(last, name)) == plain(getattr(whole, name)), name
    assert whole.output_text == SAID.get(course, "")
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [plain(item) for item in done] == [plain(item) for item in whole.output]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    if whole.status == "completed":
        with library.responses.stream(model="x", input="Hi") as stream:
            assert plain(stream.get_final_response().output) == plain(whole.output)
    kinds = [type(item).__name__ for item in whole.output]
    if course == "other_kinds":
        assert kinds == ["ResponseReasoningItem", "ResponseCustomToolCall", "ResponseFunctionToolCall", "ResponseFunctionShellToolCall", "ResponseApplyPatchToolCall"]


@pytest.mark.parametrize("course", PLAIN + CALLS)
def test_messages(course):
    library = of_anthropic(f"messages_{course}")
    whole = library.messages.create(model="x", max_tokens=9, messages=HI)
    with library.messages.stream(model="x", max_tokens=9, messages=HI) as stream:
        streamed = stream.get_final_message()
    for name in ("content", "stop_reason", "stop_sequence", "usage", "role", "model"):
        assert plain(getattr(streamed, name)) == plain(getattr(whole, name)), name
    assert "".join(block.text for block in whole.content if block.type == "text") == SAID.get(course, "")
    calls = [block.input for block in whole.content if block.type == "tool_use"]
    assert calls == {"calls": [BERN, {}]}.get(course, [BERN] if course in CALLS else [])


@pytest.mark.parametrize("course", FAILURES)
def test_failures_are_told(course):
    with pytest.raises(openai.APIError, match="the script says so"):
        list(of_openai(f"chat_{course}").chat.completions.create(model="x", messages=HI, stream=True))
    with pytest.raises(openai.APIError, match="the script says so"):
        list(of_openai(f"completions_{course}").completions.create(model="x", prompt="Hi", stream=True))
    with pytest.raises(anthropic.APIError, match="the script says so"):
        list(of_anthropic(f"messages_{course}").messages.create(model="x", max_tokens=9, messages=HI, stream=True))
    last = list(of_openai(f"responses_{course}").responses.create(model="x", input="Hi", stream=True))[-1]
    assert last.type == "response.failed" and last.response.error.code == "server_error"


@pytest.mark.parametrize("course", PLAIN + CALLS)
def test_langchain_deepseek(course):
    from langchain_deepseek import ChatDeepSeek

    model = ChatDeepSeek(api_base="http://recorded/v1", api_key="any", model="x", http_client=client(f"chat_{course}"), stream_usage=True)
    whole, streamed = model.invoke("Hi"), None
    for chunk in model.stream("Hi"):
        streamed = chunk if streamed is None else streamed + chunk

    def said(message):
        calls = [(call["id"], call["name"], call["args"]) for call in message.tool_calls]
        used = message.usage_metadata
        return (message.content, message.additional_kwargs.get("reasoning_content", ""), calls,
                message.response_metadata["finish_reason"], used["input_tokens"], used["output_tokens"])

    assert said(streamed) == said(whole) and whole.content == SAID.get(course, "")
    assert len(whole.tool_calls) == len(whole_of(f"chat_{course}")["choices"][0]["message"].get("tool_calls", []))
