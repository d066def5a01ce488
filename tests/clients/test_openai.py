"""The official OpenAI library for Python: chat completions, responses, completions."""

import openai
import pytest

from common import BASE, QUESTION, WEATHER, active, endless, wait_until_idle

client = openai.OpenAI(base_url=BASE + "/v1", api_key="any", max_retries=0)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Get the current weather of a city", "parameters": WEATHER}}]
OFF = {"thinking": {"type": "disabled"}}


def ask(text, **more):
    more.setdefault("temperature", 0)
    return client.chat.completions.create(model="ds4", messages=[{"role": "user", "content": text}], **more)


def test_plain():
    reply = ask("What is 12 + 30?", extra_body=OFF)
    assert reply.choices[0].message.content == "12 + 30 = 42."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply._request_id


def test_thinking():
    reply = ask("What is 12 + 30?")
    assert reply.choices[0].message.content == "12 + 30 = 42."
    assert "42" in reply.choices[0].message.reasoning_content
    assert reply.usage.completion_tokens_details.reasoning_tokens > 10
    short = ask("What is 12 + 30?", reasoning_effort="none")
    assert short.usage.completion_tokens_details.reasoning_tokens == 0


def test_thinking_has_a_budget():
    reply = ask("What is 12 + 30?", extra_body={"thinking": {"type": "enabled", "budget_tokens": 5}})
    assert reply.usage.completion_tokens_details.reasoning_tokens == 6  # and the marker


def test_stream():
    chunks = list(ask("What is 12 + 30?", stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "12 + 30 = 42."
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage.completion_tokens > 10 and not chunks[-1].choices
    assert len({c.id for c in chunks}) == 1


def test_the_stream_helper_agrees_with_the_whole_answer():
    with client.chat.completions.stream(
        model="ds4", messages=[{"role": "user", "content": QUESTION}], tools=TOOLS, temperature=0, extra_body=OFF
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0].function
    whole = ask(QUESTION, tools=TOOLS, extra_body=OFF).choices[0].message.tool_calls[0].function
    assert (streamed.name, streamed.arguments) == (whole.name, whole.arguments)


@pytest.mark.parametrize("think", [False, True])
def test_a_tool_round_trip(think):
    extra = {} if think else OFF
    messages = [{"role": "user", "content": QUESTION}]
    reply = client.chat.completions.create(model="ds4", messages=messages, tools=TOOLS, temperature=0, extra_body=extra)
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls[0].function.name == "get_weather" and "Paris" in message.tool_calls[0].function.arguments
    messages.append(message)
    messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"temperature": 21, "condition": "sunny"}'})
    answer = client.chat.completions.create(model="ds4", messages=messages, tools=TOOLS, temperature=0, extra_body=extra)
    assert answer.choices[0].finish_reason == "stop" and "21" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens > reply.usage.prompt_tokens


@pytest.mark.parametrize("think", [False, True])
def test_a_tool_must_be_called(think):
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        reply = ask("Hello!", tools=TOOLS, tool_choice=choice, max_tokens=400, extra_body={} if think else OFF)
        assert reply.choices[0].message.tool_calls[0].function.name == "get_weather"
    reply = ask(QUESTION, tools=TOOLS, tool_choice="none", max_tokens=100, extra_body=OFF)
    assert not reply.choices[0].message.tool_calls


def test_structured_output():
    import json

    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer"}, "odd": {"type": "boolean"}},
        "required": ["sum", "odd"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    for extra in (OFF, {}):
        reply = ask("What is 12 + 30?", response_format=wanted, max_tokens=600, extra_body=extra)
        answer = json.loads(reply.choices[0].message.content)
        assert set(answer) == {"sum", "odd"} and isinstance(answer["sum"], int)
    reply = ask("What is 12 + 30?", response_format={"type": "json_object"}, max_tokens=200, extra_body=OFF)
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content), dict)


def test_logprobs():
    reply = ask("What is 12 + 30?", logprobs=True, top_logprobs=3, extra_body=OFF)
    entries = reply.choices[0].logprobs.content
    assert "".join(e.token for e in entries) == "12 + 30 = 42."
    assert all(e.logprob <= 0 and len(e.top_logprobs) == 3 and e.top_logprobs[0].token == e.token for e in entries)


def test_choices_seeds_and_stops():
    same = [ask("Hello!", temperature=1, seed=5, max_tokens=20, extra_body=OFF).choices[0].message.content for _ in range(2)]
    assert same[0] == same[1]
    assert len(ask("Hello!", n=3, temperature=1, max_tokens=5, extra_body=OFF).choices) == 3
    reply = ask("What is 12 + 30?", stop=[" ="], extra_body=OFF)
    assert reply.choices[0].message.content == "12 + 30"
    banned = ask("What is 12 + 30?", logit_bias={str(t): -100 for t in tokens("1")}, extra_body=OFF)
    assert not banned.choices[0].message.content.startswith("1")
    assert ask("What is 12 + 30?", max_tokens=3, extra_body=OFF).choices[0].finish_reason == "length"


def tokens(text):
    return client.post("/tokenize", body={"content": text}, cast_to=object)["tokens"]


def test_errors_name_the_field():
    with pytest.raises(openai.BadRequestError) as caught:
        ask("Hi", temperature=3)
    assert caught.value.param == "temperature" and caught.value.code == "invalid_value"
    with pytest.raises(openai.BadRequestError) as caught:
        ask("word " * 5000)
    assert caught.value.code == "context_length_exceeded"
    assert "maximum context length is" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="ds4", input="x")


def test_going_away_ends_the_work():
    stream = ask("Hello!", stream=True, temperature=1, extra_body={"logit_bias": endless(), **OFF})
    next(iter(stream))
    stream.close()
    wait_until_idle()
    with pytest.raises(openai.APITimeoutError):
        ask("Hello!", temperature=1, timeout=0.5, extra_body={"logit_bias": endless(), **OFF})
    wait_until_idle()
    assert not active()


def test_completions():
    prompt = "<｜User｜>What is 12 + 30?<｜Assistant｜></think>"
    reply = client.completions.create(model="ds4", prompt=prompt, temperature=0, max_tokens=30, logprobs=2)
    assert reply.choices[0].text == "12 + 30 = 42."
    assert len(reply.choices[0].logprobs.tokens) == len(reply.choices[0].logprobs.token_logprobs)
    text = "".join(c.choices[0].text for c in client.completions.create(model="ds4", prompt=prompt, temperature=0, max_tokens=30, stream=True))
    assert text == "12 + 30 = 42."


def test_models():
    model = client.models.list().data[0]
    assert client.models.retrieve(model.id).id == model.id


def test_responses():
    reply = client.responses.create(model="ds4", input="What is 12 + 30?", temperature=0)
    assert reply.output_text == "12 + 30 = 42." and reply.status == "completed"
    assert reply.output[0].type == "reasoning" and reply.usage.output_tokens_details.reasoning_tokens > 10
    assert client.responses.retrieve(reply.id).output_text == reply.output_text
    again = client.responses.create(model="ds4", input="And what is 5 + 6?", previous_response_id=reply.id, temperature=0)
    assert again.usage.input_tokens > reply.usage.input_tokens
    client.responses.delete(reply.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="ds4", input="x", previous_response_id=reply.id)
    assert caught.value.code == "previous_response_not_found"


def test_responses_stream_and_tools():
    tool = {"type": "function", "name": "get_weather", "description": "Get the current weather of a city", "parameters": WEATHER}
    with client.responses.stream(
        model="ds4", input=QUESTION, tools=[tool], temperature=0, reasoning={"effort": "none"}, store=False
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert "response.function_call_arguments.delta" in kinds
    call = final.output[-1]
    assert call.type == "function_call" and "Paris" in call.arguments
    answer = client.responses.create(
        model="ds4",
        input=[{"role": "user", "content": QUESTION}, call.model_dump(exclude_none=True),
               {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21, "condition": "sunny"}'}],
        tools=[tool], temperature=0, reasoning={"effort": "none"},
    )
    assert "21" in answer.output_text


def test_a_text_is_scored():
    """What evaluation harnesses do: how probable is this text? The same as when the model writes it itself."""
    prompt = "<｜User｜>What is 12 + 30?<｜Assistant｜></think>"
    written = client.completions.create(model="ds4", prompt=prompt, temperature=0, max_tokens=30, logprobs=0).choices[0]
    scored = client.completions.create(model="ds4", prompt=prompt + "12 + 30 = 42.", max_tokens=0, echo=True, logprobs=2)
    table = scored.choices[0].logprobs
    assert scored.choices[0].text == prompt + "12 + 30 = 42." and "".join(table.tokens) == scored.choices[0].text
    tail = table.token_logprobs[-len(written.logprobs.tokens):]
    assert all(abs(a - b) < 1e-6 for a, b in zip(tail, written.logprobs.token_logprobs))
    assert scored.usage.completion_tokens == 0 and scored.usage.prompt_tokens == len(table.tokens)
