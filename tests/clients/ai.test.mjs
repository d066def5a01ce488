// The AI SDK, which OpenCode and many web applications are built on, over each API that it speaks: what it puts together
// from a stream is what it gets in one piece, and its own loop of calls and results comes to an answer.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { isContextOverflow } from "@mariozechner/pi-ai";
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai";

globalThis.AI_SDK_LOG_WARNINGS = false;
const url = process.env.DS4_URL;
const models = {
  compatible: (name) => createOpenAICompatible({ name: "ds4", baseURL: `${url}/v1`, apiKey: "any", includeUsage: true })(name),
  chat: (name) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "any" }).chat(name),
  responses: (name) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "any" }).responses(name),
  messages: (name) => createAnthropic({ baseURL: `${url}/v1`, apiKey: "any" })(name),
};
const city = jsonSchema({ type: "object", properties: { city: { type: "string", description: "The city" } }, required: ["city"], additionalProperties: false });
const described = { description: "Get the current weather of a city", inputSchema: city };
const asked = { get_weather: tool(described) };
const answered = { get_weather: tool({ ...described, execute: async () => ({ temperature: 21, condition: "sunny" }) }) };

const said = async (result) => ({
  text: await result.text,
  reasoning: (await result.reasoningText) || undefined, // one that is empty is none
  calls: (await result.toolCalls).map((call) => [call.toolName, call.input]),
  finish: await result.finishReason,
  input: (await result.usage).inputTokens,
  output: (await result.usage).outputTokens,
});

const cases = {
  text: { prompt: "What is 12 + 30?" },
  call: { prompt: "What is the weather in Paris?", tools: asked },
  "forced call": { prompt: "Hello!", tools: asked, toolChoice: "required" },
  "cut text": { prompt: "What is 12 + 30?", maxOutputTokens: 4 },
  "stop string": { prompt: "What is 12 + 30?", stopSequences: [" ="] },
};

for (const [name, model] of Object.entries(models)) {
  for (const thinking of ["-think", "-nothink"]) {
    test(`${name}${thinking}: a stream is the whole answer`, async () => {
      for (const [what, request] of Object.entries(cases)) {
        // The Responses API has no stop strings.
        if (what === "stop string" && name === "responses") continue;
        const options = { model: model(`deepseek-v4-flash${thinking}`), temperature: 0, maxRetries: 0, ...request };
        const whole = await said(await generateText(options));
        const stream = streamText({ ...options, onError: ({ error }) => { throw error; } });
        const streamed = await said(stream);
        assert.deepEqual(streamed, whole, `${name}: ${what}`);
        assert.ok(whole.input > 0 && whole.output > 0, what);
        if (what === "text") assert.equal(whole.text, "12 + 30 = 42.");
        if (what === "stop string") assert.equal(whole.text, "12 + 30");
        if (what.endsWith("call")) assert.equal(whole.finish, "tool-calls");
        if (what === "call") assert.deepEqual(whole.calls, [["get_weather", { city: "Paris" }]]);
        if (what === "cut text") assert.equal(whole.finish, "length");
      }
    });
  }

  test(`${name}: a call, its result, an answer`, async () => {
    for (const thinking of ["-think", "-nothink"]) {
      const options = { model: model(`deepseek-v4-flash${thinking}`), temperature: 0, maxRetries: 0, tools: answered, stopWhen: isStepCount(4) };
      const whole = await generateText({ ...options, prompt: "What is the weather in Paris?" });
      assert.match(whole.text, /21/);
      assert.equal(whole.steps.length, 2);
      // The second step has what the first one was, and goes on from there.
      const [first, second] = whole.steps;
      assert.ok(second.usage.inputTokens > first.usage.inputTokens + first.usage.outputTokens);
      const stream = streamText({ ...options, prompt: "What is the weather in Paris?", onError: ({ error }) => { throw error; } });
      assert.equal(await stream.text, whole.text);
    }
  });

  test(`${name}: errors are told, and Pi knows which mean that a prompt is too long`, async () => {
    const long = { model: model("ds4"), maxRetries: 0, prompt: "word ".repeat(5000) };
    await assert.rejects(generateText(long), (error) => {
      assert.equal(error.statusCode, 400);
      return isContextOverflow({ stopReason: "error", errorMessage: error.message });
    });
    const wrong = generateText({ model: model("ds4"), maxRetries: 0, prompt: "Hi", topP: 3 });
    await assert.rejects(wrong, (error) => /top_p/.test(error.message) && !isContextOverflow({ stopReason: "error", errorMessage: error.message }));
  });
}
