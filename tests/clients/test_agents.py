"""Coding agents, as their users start them, each for one real exchange with the pocket model.

Its context is widened for this (65,536 tokens instead of 4,096): agents begin with a long prompt of their own.
What the small model says at such a length makes little sense; that it is said, and understood, is the test.
"""

import json
import os
import pathlib
import subprocess
import urllib.request

import pytest

from common import BASE

BIN = pathlib.Path(os.environ["DS4_CLIENTS"]) / "node_modules/.bin"
MODEL = "deepseek-v4-flash"


@pytest.fixture
def agent(tmp_path):
    """Runs a program in an empty folder, with a home of its own and nothing of ours in its environment."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()

    def run(*command, **variables):
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"),
            "NO_PROXY": "127.0.0.1", **variables,
        }
        done = subprocess.run(
            [BIN / command[0], *command[1:]], cwd=work, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    run.home, run.work = home, work
    return run


def answered(api):
    """How many requests of an API the server answered with a whole reply."""
    with urllib.request.urlopen(BASE + "/metrics", timeout=30) as metrics:
        series = f'ds4_requests_total{{api="{api}",status="ok"}} '
        return next(int(line[len(series):]) for line in metrics.read().decode().splitlines() if line.startswith(series))


def claude(agent, *arguments):
    said = agent(
        "claude", "-p", *arguments, "--output-format", "json", "--model", "claude-opus-5", "--bare",
        "--system-prompt", "You are a helpful assistant.",
        ANTHROPIC_BASE_URL=BASE, ANTHROPIC_API_KEY="any", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1")
    return json.loads(said)


def test_claude_code(agent):
    said = claude(agent, "What is 12 + 30?", "--tools", "")
    assert said["result"] == "12 + 30 = 42." and said["stop_reason"] == "end_turn" and not said["is_error"]
    assert said["usage"]["output_tokens"] > 10


def test_claude_code_with_its_tools(agent):
    (agent.work / "notes.txt").write_text("secret 4711\n")
    said = claude(agent, "Read the file notes.txt", "--tools", "Read")
    assert not said["is_error"] and said["num_turns"] >= 1


def test_codex(agent):
    (agent.home / ".codex").mkdir()
    (agent.home / ".codex/config.toml").write_text(f'''
model = "{MODEL}"
model_provider = "ds4"
[model_providers.ds4]
name = "ds4"
base_url = "{BASE}/v1"
wire_api = "responses"
env_key = "DS4_KEY"
''')
    before = answered("responses")
    said = agent("codex", "exec", "--skip-git-repo-check", "--json", "What is 12 + 30?", DS4_KEY="any")
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert "turn.completed" in [event["type"] for event in events] and answered("responses") > before


def test_opencode(agent):
    config = {
        "provider": {"ds4": {
            "npm": "@ai-sdk/openai-compatible", "name": "ds4", "options": {"baseURL": f"{BASE}/v1", "apiKey": "any"},
            "models": {MODEL: {"name": MODEL, "limit": {"context": 65536, "output": 8192}}},
        }},
        "model": f"ds4/{MODEL}", "small_model": f"ds4/{MODEL}", "autoupdate": False, "share": "disabled",
    }
    (agent.work / "opencode.json").write_text(json.dumps(config))
    before = answered("chat")
    assert agent("opencode", "run", "What is 12 + 30?").strip() and answered("chat") > before


@pytest.mark.parametrize("api, path, counted", [
    ("openai-completions", "/v1", "chat"), ("openai-responses", "/v1", "responses"), ("anthropic-messages", "", "messages"),
])
def test_pi(agent, api, path, counted):
    (agent.home / ".pi/agent").mkdir(parents=True)
    model = {"id": MODEL, "reasoning": True, "contextWindow": 65536, "maxTokens": 8192}
    provider = {"baseUrl": BASE + path, "api": api, "apiKey": "any", "models": [model]}
    (agent.home / ".pi/agent/models.json").write_text(json.dumps({"providers": {"ds4": provider}}))
    before = answered(counted)
    said = agent("pi", "-p", "--no-session", "--provider", "ds4", "--model", MODEL, "What is 12 + 30?",
                 PI_OFFLINE="1", PI_TELEMETRY="0")
    assert said.strip() and answered(counted) > before
