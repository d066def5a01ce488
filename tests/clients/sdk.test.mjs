// The official libraries for JavaScript: OpenAI and Anthropic.
import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const url = process.env.DS4_URL;
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "any", maxRetries: 0 });
const off = { thinking: { type: "disabled" } };
const city = { type: "object", properties: { city: { type: "string", description: "The city" } }, required: ["city"] };
const described = { name: "get_weather", description: "Get the current weather of a city" };
const weather = { type: "function", function: { ...described, parameters: city } };
const sum = [{ role: "user", content: "What is 12 + 30?" }];
const question = [{ role: "user", content: "What is the weather in Paris?" }];
const result = '{"temperature": 21, "condition": "sunny"}';

const slots = async () => (await (await fetch(`${url}/slots`)).json()).filter((slot) => slot.state !== "idle");
async function idle() {
  for (let i = 0; i < 200; i++) {
    if ((await slots()).length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail("the engine still works for nobody");
}
async function endless() {
  const content = "<｜end▁of▁sentence｜><｜User｜><｜Assistant｜><｜begin▁of▁sentence｜>";
  const body = JSON.stringify({ content });
  const headers = { "content-type": "application/json" };
  const { tokens } = await (await fetch(`${url}/tokenize`, { method: "POST", body, headers })).json();
  return Object.fromEntries(tokens.map((token) => [String(token), -100]));
}

test("openai: plain and thinking", async () => {
  const short = await openai.chat.completions.create({ model: "ds4", messages: sum, temperature: 0, ...off });
  assert.equal(short.choices[0].message.content, "12 + 30 = 42.");
  const long = await openai.chat.completions.create({ model: "ds4", messages: sum, temperature: 0 });
  assert.match(long.choices[0].message.reasoning_content, /42/);
  assert.ok(long.usage.completion_tokens > short.usage.completion_tokens);
});

test("openai: a stream with a call, then its result", async () => {
  const request = { model: "ds4", tools: [weather], temperature: 0, ...off };
  const stream = openai.chat.completions.stream({ ...request, messages: question });
  const message = (await stream.finalChatCompletion()).choices[0].message;
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: "Paris" });
  const tool = { role: "tool", tool_call_id: message.tool_calls[0].id, content: result };
  const answer = await openai.chat.completions.create({ ...request, messages: [...question, message, tool] });
  assert.match(answer.choices[0].message.content, /21/);
});

test("openai: structure and probabilities", async () => {
  const schema = { type: "object", properties: { sum: { type: "integer" } }, required: ["sum"], additionalProperties: false };
  const format = { type: "json_schema", json_schema: { name: "sum", schema, strict: true } };
  const reply = await openai.chat.completions.create({ model: "ds4", messages: sum, response_format: format, temperature: 0, ...off });
  assert.equal(typeof JSON.parse(reply.choices[0].message.content).sum, "number");
  const probable = await openai.chat.completions.create({ model: "ds4", messages: sum, logprobs: true, top_logprobs: 2, temperature: 0, ...off });
  assert.equal(probable.choices[0].logprobs.content.map((entry) => entry.token).join(""), "12 + 30 = 42.");
});

test("openai: responses, streamed", async () => {
  const stream = openai.responses.stream({ model: "ds4", input: "What is 12 + 30?", temperature: 0 });
  const final = await stream.finalResponse();
  assert.equal(final.output_text ?? final.output.at(-1).content[0].text, "12 + 30 = 42.");
  assert.equal(final.status, "completed");
});

test("openai: errors name the field", async () => {
  const wrong = openai.chat.completions.create({ model: "ds4", messages: sum, temperature: 9 });
  await assert.rejects(wrong, (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
});

test("openai: going away ends the work", async () => {
  const stream = await openai.chat.completions.create({ model: "ds4", messages: sum, stream: true, logit_bias: await endless(), ...off });
  for await (const _ of stream) break;
  await idle();
});

test("anthropic: thinking, a call and its result", async () => {
  const request = {
    model: "claude-x", max_tokens: 2000, temperature: 0, tools: [{ ...described, input_schema: city }],
    thinking: { type: "enabled", budget_tokens: 1024 },
  };
  const stream = anthropic.messages.stream({ ...request, messages: question });
  const first = await stream.finalMessage();
  const call = first.content.at(-1);
  assert.equal(first.stop_reason, "tool_use");
  assert.deepEqual(call.input, { city: "Paris" });
  assert.ok(first.content[0].signature.length > 0);
  const results = { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: result }] };
  const messages = [...question, { role: "assistant", content: first.content }, results];
  const answer = await anthropic.messages.create({ ...request, messages });
  assert.match(answer.content.at(-1).text, /21/);
});

test("anthropic: errors, and going away", async () => {
  const wrong = anthropic.messages.create({ model: "x", max_tokens: 10, messages: [], temperature: 0 });
  await assert.rejects(wrong, (error) => error instanceof Anthropic.BadRequestError);
  const stream = anthropic.messages.stream({ model: "x", max_tokens: 3000, messages: sum, logit_bias: await endless(), ...off });
  stream.on("error", () => {});
  for await (const _ of stream) break;
  stream.abort();
  await idle();
});
