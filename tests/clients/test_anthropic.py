"""The official Anthropic library for Python."""

import json

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
