"""The official Anthropic library for Python."""

import json
import random

import anthropic
import pytest

from common import BASE, QUESTION, WEATHER, endless, wait_until_idle

client = anthropic.Anthropic(base_url=BASE, api_key="any", max_retries=0)
TOOLS = [{"name": "get_weather", "description": "Get the current weather of a city", "input_schema": WEATHER}]
OFF = {"type": "disabled"}


def ask(text, **more):
    extra = {"temperature": 0, **more.pop("extra_body", {})}
    return client.messages.create(
        model="claude-sonnet-4-5", max_tokens=more.pop("max_tokens", 500),
        messages=[{"role": "user", "content": text}], extra_body=extra, **more)


def test_plain():
    reply = ask("What is 12 + 30?", thinking=OFF)
    assert reply.content[0].text == "12 + 30 = 42." and reply.stop_reason == "end_turn"
    assert reply._request_id


def test_thinking_comes_back_signed():
    reply = ask("What is 12 + 30?", thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    thought, text = reply.content
    assert thought.type == "thinking" and "42" in thought.thinking and thought.signature
    assert text.text == "12 + 30 = 42."


def test_stream():
    with client.messages.stream(
        model="x", max_tokens=500, messages=[{"role": "user", "content": "What is 12 + 30?"}], extra_body={"temperature": 0}
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert final.content[-1].text == "12 + 30 = 42." and final.content[0].type == "thinking"
    assert final.usage.output_tokens > 10


@pytest.mark.parametrize("think", [False, True])
def test_a_tool_round_trip(think):
    thinking = {"type": "enabled", "budget_tokens": 1024} if think else OFF
    messages = [{"role": "user", "content": QUESTION}]

    def go():
        return client.messages.create(
            model="x", max_tokens=2000, messages=messages, tools=TOOLS, thinking=thinking, extra_body={"temperature": 0})

    reply = go()
    call = reply.content[-1]
    assert reply.stop_reason == "tool_use" and call.name == "get_weather" and "Paris" in json.dumps(call.input)
    messages.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in reply.content]})
    result = '{"temperature": 21, "condition": "sunny"}'
    messages.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": result}]})
    counted = client.messages.count_tokens(model="x", messages=messages, tools=TOOLS, thinking=thinking).input_tokens
    answer = go()
    assert answer.stop_reason == "end_turn" and "21" in answer.content[-1].text
    used = answer.usage
    assert counted == used.input_tokens + used.cache_read_input_tokens + used.cache_creation_input_tokens


def test_a_tool_must_be_called():
    reply = ask("Hello!", tools=TOOLS, tool_choice={"type": "any"}, thinking=OFF)
    assert reply.content[-1].type == "tool_use"
    reply = ask("Hello!", tools=TOOLS, tool_choice={"type": "tool", "name": "get_weather"}, thinking=OFF)
    assert reply.content[-1].name == "get_weather"


def test_structured_output():
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": False}
    reply = ask("What is 12 + 30?", thinking=OFF, extra_body={"output_config": {"format": {"type": "json_schema", "schema": schema}}})
    assert isinstance(json.loads(reply.content[0].text)["sum"], int)


def test_a_prefill_is_continued():
    reply = client.messages.create(
        model="x", max_tokens=50, extra_body={"temperature": 0},
        messages=[{"role": "user", "content": "What is 12 + 30?"}, {"role": "assistant", "content": "12 + 30"}])
    assert reply.content[0].text == " = 42."


def test_stop_sequences():
    reply = ask("What is 12 + 30?", stop_sequences=[" ="], thinking=OFF)
    assert (reply.stop_reason, reply.stop_sequence, reply.content[0].text) == ("stop_sequence", " =", "12 + 30")
    assert ask("What is 12 + 30?", max_tokens=2, thinking=OFF).stop_reason == "max_tokens"


def test_errors_are_in_their_shape():
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask("Hi", extra_body={"temperature": 3})
    assert "temperature" in caught.value.body["error"]["message"]
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: .* tokens > .* maximum"):
        ask("word " * 5000)


def test_going_away_ends_the_work():
    with client.messages.stream(
        model="x", max_tokens=3000, messages=[{"role": "user", "content": "Hello!"}], thinking=OFF,
        extra_body={"logit_bias": endless()},
    ) as stream:
        next(iter(stream))
    wait_until_idle()


def test_counts_are_what_requests_cost():
    """Requests like those of agents, each counted, then read and not answered."""
    dice = random.Random(7)
    words = ["fn main()", "{\n    ", "é🦀", "error[E0308]: ", "</think>", "<｜User｜>", " the", "日本", '"x": 1.50,', "\r\n"]

    def text():
        return "".join(dice.choices(words, k=dice.randrange(25)))

    for nth in range(200):
        tools = [{"name": name, "description": text(), "input_schema": WEATHER} for name in ("Read", "Bash")[: dice.randrange(3)]]
        messages = [{"role": "user", "content": f"Do it. {text()}"}]
        for turn in range(dice.randrange(4)):
            calls = [{"type": "tool_use", "id": f"toolu_{turn}_{i}", "name": "Read", "input": {"city": text()}} for i in range(dice.randrange(3))]
            thought = {"type": "thinking", "thinking": text() or "Hm.", "signature": "x"}
            messages.append({"role": "assistant", "content": [thought, {"type": "text", "text": f"ok {text()}"}, *calls]})
            results = [{"type": "tool_result", "tool_use_id": call["id"], "content": text()} for call in calls]
            messages.append({"role": "user", "content": [*results, {"type": "text", "text": f"more {text()}"}]})
        request = {
            "model": "claude-opus-5", "messages": messages, "tools": tools, "system": f"x-anthropic-billing-header: cch={nth:x};\n{text()}",
            "thinking": dice.choice([OFF, {"type": "adaptive"}]),
        }
        counted = client.messages.count_tokens(**request).input_tokens
        usage = client.messages.create(**request, max_tokens=0).usage
        assert counted == usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens, nth


def test_conversations_do_not_push_each_other_out():
    """Two of one kind keep their own; another with its own instructions does not cost them theirs."""
    def turn(system, messages, text):
        messages.append({"role": "user", "content": text})
        reply = client.messages.create(model="x", system=system, messages=messages, max_tokens=20, thinking=OFF, extra_body={"temperature": 0})
        messages.append({"role": "assistant", "content": reply.content[0].text})
        usage = reply.usage
        return usage.cache_read_input_tokens, usage.input_tokens + usage.cache_read_input_tokens + usage.output_tokens

    system = "You are a helpful assistant. " + "Answer in one short sentence and say nothing else. " * 20
    first, second, agent = [], [], []
    _, first_size = turn(system, first, "What is 12 + 30?")
    known, second_size = turn(system, second, "What is 5 + 6?")
    assert known > 150, "what they have in common is read once"
    turn("You are another one. " + "Look at every file. " * 30, agent, "Hello!")
    # All but the last few tokens of what was said before: the end of a reply may have to be read again.
    for messages, size in ((first, first_size), (second, second_size)):
        known, _ = turn(system, messages, "And what is 2 + 2?")
        assert known > size - 30
    # A request that is asked again begins where it was.
    again = [message for message in first[:-1]]
    reply = client.messages.create(model="x", system=system, messages=again, max_tokens=20, thinking=OFF, extra_body={"temperature": 0})
    assert reply.content[0].text == first[-1]["content"] and reply.usage.input_tokens < 30
