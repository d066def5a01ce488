"""LangChain and LiteLLM: a question, a stream, a call."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch a list of prices

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


def test_litellm():
    import litellm

    messages = [{"role": "user", "content": "What is 12 + 30?"}]
    for name, base in (("openai/ds4", BASE + "/v1"), ("anthropic/claude-x", BASE)):
        reply = litellm.completion(model=name, api_base=base, api_key="any", messages=messages, temperature=0, max_tokens=200)
        assert reply.choices[0].message.content == "12 + 30 = 42.", name
    stream = litellm.completion(model="openai/ds4", api_base=BASE + "/v1", api_key="any", messages=messages, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "12 + 30 = 42."
