// The official libraries for JavaScript and the AI SDK, fed with the transcripts that are recorded in
// `crates/server/tests/snapshots`: what they put together from a stream is what they read in one piece.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

globalThis.AI_SDK_LOG_WARNINGS = false;
const plainCourses = ["text", "reasoning", "stop_string", "context_full"];
const callCourses = ["call", "calls", "call_in_reasoning"];
const courses = [...plainCourses, ...callCourses];
const said = { text: "Hello, wörld 🦀", reasoning: "Hello", stop_string: "one", context_full: "so mu", call: "ok" };
const messages = [{ role: "user", content: "Hi" }];

const golden = (name) => {
  const text = readFileSync(`${process.env.DS4_GOLDENS}/transcripts__${name}.snap`, "utf8");
  return text.split("---\n").slice(2).join("---\n").replace(/\n+$/, "\n\n");
};
// Answers everything with this transcript, or with the same in one piece.
const recorded = (name) => async (_, { body }) => {
  const streamed = JSON.parse(body).stream;
  const type = streamed ? "text/event-stream; charset=utf-8" : "application/json";
  return new Response(golden(streamed ? name : `${name}_whole`), { headers: { "content-type": type } });
};
const openai = (name) => new OpenAI({ baseURL: "http://recorded/v1", apiKey: "any", maxRetries: 0, fetch: recorded(name) });
const anthropic = (name) => new Anthropic({ baseURL: "http://recorded", apiKey: "any", maxRetries: 0, fetch: recorded(name) });
const all = async (stream) => {
  const list = [];
  for await (const event of stream) list.push(event);
  return list;
};

for (const course of courses) {
  test(`openai: chat, ${course}`, async () => {
    const whole = (await openai(`chat_${course}`).chat.completions.create({ model: "x", messages })).choices[0];
    const stream = openai(`chat_${course}`).chat.completions.stream({ model: "x", messages, stream_options: { include_usage: true } });
    let message = "";
    let reasoning = "";
    for await (const chunk of stream) {
      message += chunk.choices[0]?.delta.content ?? "";
      reasoning += chunk.choices[0]?.delta.reasoning_content ?? "";
    }
    assert.equal(message, said[course] ?? "");
    assert.equal(whole.message.content ?? "", message);
    assert.equal(whole.message.reasoning_content ?? "", reasoning);
    if (course === "context_full") return assert.equal(whole.finish_reason, "length"); // the helper takes it for an error
    const { choices } = await stream.finalChatCompletion();
    const calls = (choice) => (choice.message.tool_calls ?? []).map((call) => [call.id, call.function.name, JSON.parse(call.function.arguments)]);
    assert.deepEqual(calls(choices[0]), calls(whole));
    assert.equal(calls(whole).length, { calls: 2, call: 1, call_in_reasoning: 1 }[course] ?? 0);
    assert.equal(choices[0].finish_reason, whole.finish_reason);
  });

  test(`openai: responses, ${course}`, async () => {
    const whole = await openai(`responses_${course}`).responses.create({ model: "x", input: "Hi" });
    const events = await all(await openai(`responses_${course}`).responses.create({ model: "x", input: "Hi", stream: true }));
    const last = events.at(-1).response;
    for (const name of ["output", "status", "usage", "incomplete_details"]) assert.deepEqual(last[name], whole[name]);
    assert.equal(whole.output_text, said[course] ?? "");
    if (whole.status === "completed") {
      const helped = await openai(`responses_${course}`).responses.stream({ model: "x", input: "Hi" }).finalResponse();
      assert.equal(helped.output_text, whole.output_text);
    }
  });

  test(`anthropic: messages, ${course}`, async () => {
    const request = { model: "x", max_tokens: 9, messages };
    const whole = await anthropic(`messages_${course}`).messages.create(request);
    const streamed = await anthropic(`messages_${course}`).messages.stream(request).finalMessage();
    for (const name of ["content", "stop_reason", "stop_sequence", "usage"]) assert.deepEqual(streamed[name], whole[name]);
    assert.equal(whole.content.filter((block) => block.type === "text").map((block) => block.text).join(""), said[course] ?? "");
  });
}

for (const course of ["failure_at_once", "failure"]) {
  test(`${course}: every library tells of it`, async () => {
    const told = { message: /the script says so/ };
    await assert.rejects(openai(`chat_${course}`).chat.completions.create({ model: "x", messages, stream: true }).then(all), told);
    await assert.rejects(openai(`completions_${course}`).completions.create({ model: "x", prompt: "Hi", stream: true }).then(all), told);
    await assert.rejects(anthropic(`messages_${course}`).messages.create({ model: "x", max_tokens: 9, messages, stream: true }).then(all), told);
    const events = await all(await openai(`responses_${course}`).responses.create({ model: "x", input: "Hi", stream: true }));
    assert.equal(events.at(-1).type, "response.failed");
  });
}

const models = {
  chat: (name) => createOpenAICompatible({ name: "ds4", baseURL: "http://recorded/v1", apiKey: "any", includeUsage: true, fetch: recorded(name) })("x"),
  "openai chat": (name) => createOpenAI({ baseURL: "http://recorded/v1", apiKey: "any", fetch: recorded(name) }).chat("x"),
  responses: (name) => createOpenAI({ baseURL: "http://recorded/v1", apiKey: "any", fetch: recorded(name) }).responses("x"),
  messages: (name) => createAnthropic({ baseURL: "http://recorded/v1", apiKey: "any", fetch: recorded(name) })("x"),
};
const schema = jsonSchema({ type: "object", properties: { city: { type: "string" }, days: { type: "array", items: { type: "integer" } } } });
const tools = { get_weather: tool({ inputSchema: schema }) };
const summary = async (result) => ({
  text: await result.text,
  reasoning: (await result.reasoningText) || undefined,
  calls: (await result.toolCalls).map((call) => [call.toolCallId, call.toolName, call.input]),
  finish: await result.finishReason,
  usage: [(await result.usage).inputTokens, (await result.usage).outputTokens],
});

for (const [api, model] of Object.entries(models)) {
  test(`ai: ${api}`, async () => {
    for (const course of courses) {
      const name = `${api.split(" ").at(-1)}_${course}`;
      const options = { model: model(name), prompt: "Hi", tools, maxRetries: 0 };
      const whole = await summary(await generateText(options));
      const streamed = await summary(streamText({ ...options, onError: ({ error }) => { throw error; } }));
      assert.deepEqual(streamed, whole, course);
      assert.equal(whole.text, said[course] ?? "", course);
      assert.equal(whole.calls.length, { calls: 2, call: 1, call_in_reasoning: 1 }[course] ?? 0, course);
      assert.equal(whole.finish, course === "context_full" ? "length" : callCourses.includes(course) ? "tool-calls" : "stop", course);
    }
  });
}
