"""Conversations with tools: schemas under many names, requests, calls, results and answers from the results.

Names of tools and parameters vary and are sometimes invented, so that the only way to be right is to copy them from
the schema in the prompt.
"""

import json

import world as w
from conversations import any_exchange, article, gibberish, is_held_out, start


class Tool:
    """One tool as declared in a prompt, and the requests that need it.

    - `parameters`: (name, JSON type, description, required) each
    - `request(rng)` -> (what the user says, values in the order of the parameters, None = left out,
      the tool's result, the answer made from it)
    """

    def __init__(self, name, description, parameters, request):
        self.name, self.description, self.parameters, self.request = name, description, parameters, request

    def schema(self, rng):
        properties = {}
        for name, kind, description, _ in self.parameters:
            properties[name] = {"type": kind, **({"description": description} if description else {})}
        required = [name for name, _, _, is_required in self.parameters if is_required]
        body = {"type": "object", "properties": properties, **({"required": required} if required else {})}
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": body}}

    def arguments(self, values):
        return {p[0]: value for p, value in zip(self.parameters, values) if value is not None}


def name_of(rng, *variants):
    return rng.choice(variants)


def described(rng, text):
    return text if rng.random() < 0.5 else ""


def weather(rng):
    days = rng.random() < 0.3
    city_name = name_of(rng, "city", "city", "place", "location", "town")
    parameters = [(city_name, "string", described(rng, "Name of the city"), True)]
    if days:
        parameters.append((name_of(rng, "days", "day_count"), "integer", described(rng, "Number of days"), False))

    def request(rng):
        city, degrees, sky = rng.choice(w.CITIES), rng.randint(-9, 38), rng.choice(w.SKIES)
        if rng.random() < 0.1:
            city = gibberish(rng).capitalize()
        count = rng.randint(2, 9) if days and rng.random() < 0.5 else None
        user = rng.choice([f"What is the weather in {city}?", f"How is the weather in {city}?", f"Weather in {city}?",
                           f"Tell me the weather in {city}.", f"I want to know the weather in {city}.", f"Is it warm in {city}?"])
        if count:
            user = rng.choice([f"What is the weather in {city} for the next {count} days?", f"Give me the weather of {city} for {count} days."])
        result = rng.choice([f"{degrees} degrees, {sky}", json.dumps({"temperature": degrees, "sky": sky}),
                             json.dumps({"sky": sky, "degrees": degrees}), f"{sky}, {degrees} C"])
        return user, [city, count], result, f"In {city} it is {degrees} degrees and {sky}."

    return Tool(name_of(rng, "get_weather", "get_weather", "weather", "weather_report", "fetch_weather", "check_weather"),
                name_of(rng, "Get the weather of a city", "Current weather for a place", "Weather report"), parameters, request)


def calculator(rng):
    def request(rng):
        a, b = rng.randint(100, 9999), rng.randint(11, 999)
        sign, total = rng.choice([("+", a + b), ("-", a - b), ("*", a * b)])
        user = rng.choice([f"Use the calculator: {a} {sign} {b}", f"What is {a} {sign} {b}?", f"Calculate {a} {sign} {b}.", f"Compute {a} {sign} {b} with the tool."])
        return user, [f"{a} {sign} {b}"], str(total), f"{a} {sign} {b} = {total}."

    return Tool(name_of(rng, "calculator", "calculate", "evaluate", "compute", "do_math"),
                name_of(rng, "Evaluate an expression", "Calculate a result", "A calculator for large numbers"),
                [(name_of(rng, "expression", "expression", "formula", "input"), "string", described(rng, "What to calculate"), True)], request)


def search(rng):
    def request(rng):
        topic = rng.choice(w.TOPICS)
        hit = f"{rng.choice(w.ADJECTIVES).capitalize()} {rng.choice(w.ANIMALS)} {rng.randint(10, 99)}"
        user = rng.choice([f"Search for {topic}.", f"Search the web for {topic}.", f"Find something about {topic}.", f"Look up {topic}.", f"Find pages about {topic}."])
        return user, [topic], rng.choice([hit, json.dumps([hit]), f"1. {hit}"]), f"I found: {hit}."

    return Tool(name_of(rng, "search", "web_search", "search_web", "find_pages", "lookup"),
                name_of(rng, "Search the web", "Find pages about a topic", "Search for something"),
                [(name_of(rng, "query", "query", "text", "topic", "q"), "string", described(rng, "What to search for"), True)], request)


def some_path(rng):
    folder = f"{rng.choice(w.FOLDERS)}/" * (rng.random() < 0.6)
    return f"{folder}{rng.choice(w.FILES)}.{rng.choice(w.EXTENSIONS)}"


def read_file(rng):
    def request(rng):
        path = some_path(rng)
        content = rng.choice([rng.choice(w.MESSAGES), f"the {rng.choice(w.ANIMALS)} is {rng.choice(w.ADJECTIVES)}", f"version {rng.randint(1, 9)}.{rng.randint(0, 99)}", gibberish(rng)])
        user = rng.choice([f"Read {path}.", f"What is in {path}?", f"What does {path} say?", f"Open the file {path}.", f"Show me {path}.", f"Read the file {path}."])
        return user, [path], content, f"The file says: {content}"

    return Tool(name_of(rng, "read_file", "read_file", "open_file", "cat", "show_file", "load"),
                name_of(rng, "Read a file", "Read the text of a file", "Show what is in a file"),
                [(name_of(rng, "path", "path", "file", "file_path", "filename"), "string", described(rng, "Path of the file"), True)], request)


def write_file(rng):
    def request(rng):
        path, content = some_path(rng), rng.choice(w.MESSAGES)
        user = rng.choice([f"Write \"{content}\" to {path}.", f"Save \"{content}\" in {path}.", f"Put \"{content}\" into the file {path}."])
        return user, [path, content], rng.choice(["ok", "done", "saved"]), f"I have written {path}."

    return Tool(name_of(rng, "write_file", "save_file", "write", "store_text"), name_of(rng, "Write a file", "Save text to a file"),
                [(name_of(rng, "path", "file", "file_path"), "string", described(rng, "Path of the file"), True),
                 (name_of(rng, "content", "text", "data"), "string", described(rng, "The text to write"), True)], request)


def clock(rng):
    def request(rng):
        city, time = rng.choice(w.CITIES), f"{rng.randint(0, 23)}:{rng.randint(10, 59)}"
        user = rng.choice([f"What time is it in {city}?", f"Tell me the time in {city}.", f"Time in {city}?", f"How late is it in {city}?"])
        return user, [city], rng.choice([time, json.dumps({"time": time})]), f"In {city} it is {time}."

    return Tool(name_of(rng, "get_time", "current_time", "clock", "time_in"), name_of(rng, "Get the time in a zone", "Current time of a place"),
                [(name_of(rng, "zone", "city", "place", "timezone"), "string", described(rng, "City or time zone"), True)], request)


def timer(rng):
    def request(rng):
        minutes = rng.randint(1, 120)
        user = rng.choice([f"Set a timer for {minutes} minutes.", f"Start a timer of {minutes} minutes.", f"Wake me in {minutes} minutes.", f"Timer: {minutes} minutes"])
        return user, [minutes], rng.choice(["ok", "started"]), f"The timer is set for {minutes} minutes."

    return Tool(name_of(rng, "set_timer", "start_timer", "timer", "wake_me"), name_of(rng, "Set a timer", "Start a timer in minutes"),
                [(name_of(rng, "minutes", "duration", "length"), "integer", described(rng, "Minutes to wait"), True)], request)


def light(rng):
    def request(rng):
        room, on = rng.choice(w.ROOMS), rng.random() < 0.5
        word = "on" if on else "off"
        user = rng.choice([f"Turn {word} the light in the {room}.", f"Turn the {room} light {word}.", f"Switch {word} the light in the {room}.", f"Light {word} in the {room}."])
        return user, [room, on], rng.choice(["ok", "done"]), f"The light in the {room} is {word}."

    return Tool(name_of(rng, "set_light", "switch_light", "light", "turn_light"), name_of(rng, "Turn a light on or off", "Control the light of a room"),
                [(name_of(rng, "room", "room", "place"), "string", described(rng, "Which room"), True),
                 (name_of(rng, "on", "state", "enabled"), "boolean", described(rng, "true for on"), True)], request)


def currency(rng):
    def request(rng):
        amount, (a, b), total = rng.randint(2, 900), rng.sample(w.CURRENCIES, 2), rng.randint(2, 9999)
        user = rng.choice([f"Convert {amount} {a} to {b}.", f"How much is {amount} {a} in {b}?", f"Change {amount} {a} into {b}."])
        return user, [amount, a, b], rng.choice([str(total), json.dumps({"amount": total})]), f"{amount} {a} is {total} {b}."

    return Tool(name_of(rng, "convert_currency", "exchange", "convert_money"), name_of(rng, "Convert money", "Convert an amount from one currency to another"),
                [(name_of(rng, "amount", "value"), "number", described(rng, "How much"), True), (name_of(rng, "from", "source", "from_currency"), "string", "", True),
                 (name_of(rng, "to", "target", "to_currency"), "string", "", True)], request)


def mail(rng):
    def request(rng):
        who, text = rng.choice(w.NAMES), rng.choice(w.MESSAGES)
        user = rng.choice([f"Send a message to {who}: {text}", f"Tell {who}: {text}", f"Write to {who}: {text}"])
        return user, [who, text], rng.choice(["sent", "ok"]), f"I have sent the message to {who}."

    return Tool(name_of(rng, "send_message", "send_mail", "message", "notify"), name_of(rng, "Send a message to a person", "Write to somebody"),
                [(name_of(rng, "to", "person", "recipient", "name"), "string", described(rng, "Who gets it"), True),
                 (name_of(rng, "text", "message", "body"), "string", described(rng, "What to say"), True)], request)


def music(rng):
    def request(rng):
        song = rng.choice(w.SONGS)
        user = rng.choice([f"Play {song}.", f"Play the song {song}.", f"I want to hear {song}.", f"Put on {song}."])
        return user, [song], rng.choice(["playing", "ok"]), f"Now playing {song}."

    return Tool(name_of(rng, "play_music", "play_song", "play", "music"), name_of(rng, "Play a song", "Play music"),
                [(name_of(rng, "song", "title", "track"), "string", described(rng, "Title of the song"), True)], request)


def invented(rng):
    """A tool that nobody has heard of, with made-up names."""
    verb = rng.choice("open close paint count move check clean start stop build mark send pack lift".split())
    noun = gibberish(rng) if rng.random() < 0.5 else rng.choice(w.OBJECTS)
    slots = rng.sample("size speed level colour name place weight number owner mode label depth".split(), rng.randint(1, 3))
    if rng.random() < 0.3:
        slots[0] = gibberish(rng)
    kinds = ["integer" if slot in ("size", "speed", "level", "weight", "number", "depth") else "string" for slot in slots]
    name = f"{verb}_{noun}"

    def request(rng):
        values = [rng.randint(0, 999) if k == "integer" else rng.choice([rng.choice(w.COLOURS), rng.choice(w.NAMES), gibberish(rng)]) for k in kinds]
        listing = " and ".join(f"{slot} {value}" for slot, value in zip(slots, values))
        equals = ", ".join(f"{slot} = {value}" for slot, value in zip(slots, values))
        user = rng.choice([f"Use {name} with {listing}.", f"Call {name} with {listing}.", f"Please run {name}: {equals}", f"{verb.capitalize()} the {noun} with {listing}."])
        result = rng.choice([f"code {rng.randint(100, 999)}", "ok", gibberish(rng), f"{noun} {rng.randint(1, 99)}"])
        return user, values, result, f"The result is: {result}"

    return Tool(name, name_of(rng, f"{verb.capitalize()} {article(noun)}", f"Used to {verb} the {noun}"),
                [(slot, k, "", True) for slot, k in zip(slots, kinds)], request)


KINDS = [weather, weather, calculator, search, read_file, read_file, write_file, clock, timer, light, currency, mail, music, *[invented] * 6]


def declare(rng, count):
    """Some tools of different kinds with different names."""
    tools = {}
    while len(tools) < count:
        make = rng.choice(KINDS)
        tools.setdefault(make.__name__ if make is not invented else f"invented{len(tools)}", make(rng))
    return list({tool.name: tool for tool in tools.values()}.values())


def request_of(rng, tool, held_out):
    while True:
        user, values, result, answer = tool.request(rng)
        if is_held_out(f"tool|{tool.name}|{user}") == held_out:
            return user, values, result, answer


def call_id(conversation):
    return f"call_{len(conversation.messages)}"


def use_tool(rng, conversation, tool, held_out=False, plain=False):
    """The user asks, the model calls, the tool answers, the model answers. Some requests name two things at once."""
    wanted = [request_of(rng, tool, held_out)]
    if rng.random() < 0.12 and not plain:
        wanted.append(request_of(rng, tool, held_out))
        if wanted[0][1] == wanted[1][1]:
            wanted.pop()
    conversation.add("user", " ".join(one[0] if plain or len(wanted) > 1 else speak_request(rng, one[0]) for one in wanted))
    ids = [f"{call_id(conversation)}_{i}" for i in range(len(wanted))]
    calls = [{"id": name, "type": "function", "function": {
        "name": tool.name, "arguments": json.dumps(tool.arguments(values), ensure_ascii=False)}} for name, (_, values, _, _) in zip(ids, wanted)]
    conversation.reply("", f"I need {tool.name} for this.", tool_calls=calls)
    for name, (_, _, result, _) in zip(ids, wanted):
        conversation.add("tool", result, tool_call_id=name)
    conversation.reply(" ".join(answer for _, _, _, answer in wanted), "I have the result and can answer.")


def speak_request(rng, text):
    """Requests keep the spelling of what must be copied."""
    roll = rng.random()
    if roll < 0.1:
        return text.rstrip("?.!")
    if roll < 0.2:
        return rng.choice(["Please: ", "Hey, ", "Can you help me? ", "Hi! "]) + text
    return text


def tool_session(rng, held_out=False, turns=None, thinking=None):
    """A conversation with one to four tools declared; most turns need one of them."""
    conversation = start(rng, thinking)
    tools = declare(rng, rng.choice([1, 1, 2, 2, 3, 4]))
    conversation.add("system", rng.choice(["", "", *w.SYSTEM_PROMPTS]), tools=[tool.schema(rng) for tool in tools])
    for _ in range(turns or rng.choice([1, 2, 2, 3, 4])):
        if rng.random() < 0.2 and not held_out:
            exchange = any_exchange(rng, conversation.thinking)
            conversation.add("user", exchange.user)
            conversation.reply(exchange.answer, "I need no tool for this. " + exchange.think)
        else:
            use_tool(rng, conversation, rng.choice(tools), held_out)
    return conversation
