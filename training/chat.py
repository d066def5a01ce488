"""The DeepSeek V4 chat protocol, from messages to prompt segments.

A segment is `(text, is_control, is_reply)`: control tokens that the renderer inserts, ordinary text (in which a
control token's spelling is just text), and whether the model is the one who writes it. The part of the protocol that
the training data needs: system, user, assistant and tool turns, reasoning, tools, effort texts.
"""

import json

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, REMINDER = "<｜User｜>", "<｜Assistant｜>", "<｜latest_reminder｜>"
THINK, END_THINK, DSML = "<think>", "</think>", "｜DSML｜"
TASKS = ["<｜action｜>", "<｜query｜>", "<｜authority｜>", "<｜domain｜>", "<｜title｜>",
         "<｜extracted_url｜>", "<｜read_url｜>"]
CONTROL = [BOS, EOS, PAD]  # hidden by a decoder that skips special tokens
MARKERS = [USER, ASSISTANT, THINK, END_THINK, DSML, REMINDER, *TASKS]  # not hidden

EFFORT_A = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n"
)
EFFORT_B = (
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the "
    "problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying "
    "cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are certain "
    "that no assumption remains unchecked and no error remains undiscovered.\n\n"
)

TOOLS_HEAD = f"""## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning inside {THINK}...{END_THINK} BEFORE any tool calls or final response.

Otherwise, output directly after {END_THINK} with tool calls or final response.

### Available Tool Schemas

"""
TOOLS_TAIL = "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n"


def split_control(text, control):
    """Cuts our own template text at the control tokens in it."""
    pieces = [(text, False)]
    for token in control:
        cut = []
        for piece, is_control in pieces:
            parts = [piece] if is_control else piece.split(token)
            for i, part in enumerate(parts):
                cut += [(token, True)] * (i > 0) + [(part, is_control)] * bool(part)
        pieces = cut
    return pieces


TOOLS_HEAD_PIECES = split_control(TOOLS_HEAD, [DSML, THINK, END_THINK])


def dumps(value):
    return json.dumps(value, ensure_ascii=False)


def parse_arguments(call):
    """A call's arguments as an object; what is no JSON becomes one string parameter."""
    try:
        return json.loads(call["function"]["arguments"])
    except json.JSONDecodeError:
        return {"arguments": call["function"]["arguments"]}


class Prompt:
    """Segments under construction; neighbouring ordinary text becomes one segment."""

    def __init__(self):
        self.segments = []

    def text(self, text, reply=False):
        if not text:
            return
        if self.segments and not self.segments[-1][1]:
            before, _, was_reply = self.segments[-1]
            assert was_reply == reply, "a control token stands between prompt and reply"
            self.segments[-1] = (before + text, False, reply)
        else:
            self.segments.append((text, False, reply))

    def control(self, token, reply=False):
        self.segments.append((token, True, reply))

    def tools(self, tools):
        for piece, is_control in TOOLS_HEAD_PIECES:
            (self.control if is_control else self.text)(piece)
        self.text("\n".join(dumps(tool["function"]) for tool in tools) + TOOLS_TAIL)

    def tag(self, opening, rest):
        """`<｜DSML｜rest` or `</｜DSML｜rest`, written by the model."""
        self.text("<" if opening else "</", True)
        self.control(DSML, True)
        self.text(rest, True)

    def calls(self, calls):
        self.text("\n\n", True)
        self.tag(True, "tool_calls>\n")
        for call in calls:
            self.tag(True, f'invoke name="{call["function"]["name"]}">\n')
            for i, (key, value) in enumerate(parse_arguments(call).items()):
                is_string = isinstance(value, str)
                self.text("\n" if i else "", True)
                self.tag(True, f'parameter name="{key}" string="{"true" if is_string else "false"}">')
                self.text(value if is_string else dumps(value), True)
                self.tag(False, "parameter>")
            self.text("\n", True)
            self.tag(False, "invoke>")
            self.text("\n", True)
        self.tag(False, "tool_calls>")


def fold(messages):
    """Tool results and user texts that follow each other become one user turn; results take the order of their calls."""
    turns = []
    order = {}
    for message in messages:
        role = message["role"]
        if role in ("user", "tool"):
            if not turns or turns[-1]["role"] != "user":
                turns.append({"role": "user", "parts": []})
            turns[-1]["parts"].append(message)
        else:
            turns.append(message)
    for turn in turns:
        if turn["role"] == "assistant" and turn.get("tool_calls"):
            ids = [call.get("id") or call["function"].get("id") for call in turn["tool_calls"]]
            order = {name: i for i, name in enumerate(ids) if name}
        elif turn["role"] == "user" and order:
            slots = [i for i, part in enumerate(turn["parts"]) if part["role"] == "tool"]
            results = sorted((turn["parts"][i] for i in slots), key=lambda part: order.get(part.get("tool_call_id"), 0))
            for i, part in zip(slots, results):
                turn["parts"][i] = part
    return turns


def result_text(content):
    if isinstance(content, list):
        return "\n\n".join(
            entry["text"] if entry.get("type") == "text" else f"[Unsupported {entry.get('type')}]" for entry in content)
    return content or ""


def render(messages, thinking=False, drop_thinking=True, effort_text=""):
    """Messages to segments. Follows the reference encoder's order of steps."""
    turns = fold(messages)
    if any(turn.get("tools") for turn in turns):
        drop_thinking = False
    last_user = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    out = Prompt()
    out.control(BOS)
    if thinking:
        out.text(effort_text)
    for i, turn in enumerate(turns):
        if turn["role"] == "system":
            out.text(turn.get("content") or "")
            if turn.get("tools"):
                out.text("\n\n")
                out.tools(turn["tools"])
        elif turn["role"] == "user":
            out.control(USER)
            out.text("\n\n".join(
                f"<tool_result>{result_text(part['content'])}</tool_result>" if part["role"] == "tool"
                else part.get("content") or "" for part in turn["parts"]))
        elif turn["role"] == "assistant":
            if thinking and (not drop_thinking or i > last_user):
                out.text(turn.get("reasoning_content") or "", True)
                out.control(END_THINK, True)
            out.text(turn.get("content") or "", True)
            if turn.get("tool_calls"):
                out.calls(turn["tool_calls"])
            if not turn.get("wo_eos"):
                out.control(EOS, True)
        else:
            raise ValueError(f"role {turn['role']!r} is not rendered here")
        follower = turns[i + 1]["role"] if i + 1 < len(turns) else "assistant"
        if turn["role"] == "user" and follower == "assistant":
            out.control(ASSISTANT)
            out.control(THINK if thinking and (not drop_thinking or i >= last_user) else END_THINK)
    return out.segments


def check_vectors(paths):
    """Compares the rendering with prompt vectors; those that need other roles or options are left out."""
    tried = wrong = 0
    for path in paths:
        for vector in json.load(open(path))["vectors"]:
            options, messages = vector["options"], vector["messages"]
            supported = {"system", "user", "assistant", "tool"} >= {m["role"] for m in messages}
            plain = not any(m.get("task") or m.get("response_format") for m in messages)
            if not supported or not plain or vector.get("context") or "prompt" not in vector["expect"]:
                continue
            if not options.get("add_bos", True):
                continue
            level = (options.get("reasoning_effort"), vector["profile"])
            effort = {("max", "v4"): EFFORT_A, ("high", "v4-0731"): EFFORT_A, ("max", "v4-0731"): EFFORT_B}.get(level, "")
            try:
                segments = render(messages, options["thinking_mode"] == "thinking", options.get("drop_thinking", True), effort)
                got = "".join(text for text, _, _ in segments)
            except Exception as error:  # a vector that this subset cannot express counts as wrong
                got = repr(error)
            tried += 1
            if got != vector["expect"]["prompt"]:
                wrong += 1
                print("DIFFERS", vector["id"])
    print(f"{tried - wrong} of {tried} prompts agree")
    return wrong == 0


if __name__ == "__main__":
    import sys

    sys.exit(not check_vectors(sys.argv[1:]))
