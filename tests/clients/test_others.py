"""LangChain and LiteLLM: a question, a stream, a call."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch a list of prices

import pytest

from common import BASE, QUESTION

OFF = {"thinking": {"type": "disabled"}}


def get_weather(city: str) -> str:
    """Get the current weather of a city"""
    return '{"temperature": 21, "condition": "sunny"}'


def test_langchain_openai():
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=BASE + "/v1", api_key="any", model="ds4", temperature=0, extra_body=OFF)
    assert model.invoke("What is 12 + 30?").content == "12 + 30 = 42."
    assert "".join(chunk.content for chunk in model.stream("What is 12 + 30?")) == "12 + 30 = 42."
    reply = model.bind_tools([get_weather]).invoke(QUESTION)
    assert reply.tool_calls[0]["name"] == "get_weather" and reply.tool_calls[0]["args"] == {"city": "Paris"}


def test_langchain_deepseek():
    from langchain_deepseek import ChatDeepSeek

    model = ChatDeepSeek(api_base=BASE + "/v1", api_key="any", model="deepseek-reasoner", temperature=0)
    reply = model.invoke("What is 12 + 30?")
    assert reply.content == "12 + 30 = 42." and "42" in reply.additional_kwargs["reasoning_content"]
    assert reply.response_metadata["token_usage"]["prompt_cache_hit_tokens"] >= 0


@pytest.mark.parametrize("name", ["deepseek-reasoner", "deepseek-chat"])
@pytest.mark.parametrize("question", ["What is 12 + 30?", QUESTION])
def test_langchain_deepseek_makes_the_same_of_a_stream(name, question):
    from langchain_deepseek import ChatDeepSeek

    model = ChatDeepSeek(api_base=BASE + "/v1", api_key="any", model=name, temperature=0, stream_usage=True)
    model = model.bind_tools([get_weather])
    whole, streamed = model.invoke(question), None
    for chunk in model.stream(question):
        streamed = chunk if streamed is None else streamed + chunk

    def said(message):
        calls = [(call["name"], call["args"]) for call in message.tool_calls]
        usage = message.usage_metadata
        thought = message.additional_kwargs.get("reasoning_content", "")
        finish = message.response_metadata["finish_reason"]
        return message.content, thought, calls, finish, usage["input_tokens"], usage["output_tokens"]

    assert said(streamed) == said(whole)
    assert bool(said(whole)[1]) == (name == "deepseek-reasoner") and bool(whole.tool_calls) == (question == QUESTION)


def test_litellm():
    import litellm

    messages = [{"role": "user", "content": "What is 12 + 30?"}]
    for name, base in (("openai/ds4", BASE + "/v1"), ("anthropic/claude-x", BASE)):
        reply = litellm.completion(model=name, api_base=base, api_key="any", messages=messages, temperature=0, max_tokens=200)
        assert reply.choices[0].message.content == "12 + 30 = 42.", name
    stream = litellm.completion(model="openai/ds4", api_base=BASE + "/v1", api_key="any", messages=messages, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "12 + 30 = 42."
