"""Generates the conversations that the pocket model learns from.

A *skill* makes one exchange: a question, the reasoning and the answer that belong to it. A conversation strings
exchanges together, with or without system prompt, tools and thinking. Answers are determined by the prompt, so that a
reply can be marked right or wrong without judgement.

Every exchange has a key; one in twelve keys is held out: never trained on, and used only by `evaluate.py`. For sums
the key is the pair of numbers, for facts the pair of fact and phrasing, for the rest the values that must be copied.
"""

import zlib
from dataclasses import dataclass, field

import chat
import world as w


@dataclass
class Exchange:
    """One question and its answer."""

    key: str
    user: str
    answer: str
    think: str
    brief: str = ""  # the answer in a word, if there is one


@dataclass
class Conversation:
    """Messages, and how to render them."""

    messages: list = field(default_factory=list)
    thinking: bool = False
    effort: str = ""

    def add(self, role, content, **more):
        self.messages.append({"role": role, "content": content, **more})

    def reply(self, content, think="", **more):
        self.add("assistant", content, **({"reasoning_content": think} if self.thinking else {}), **more)

    def segments(self):
        return chat.render(self.messages, self.thinking, effort_text=self.effort)


def is_held_out(key):
    return zlib.crc32(key.encode()) % 12 == 0


def draw(rng, make, held_out=False):
    """Calls `make(rng)` until its key lies on the wanted side of the split."""
    while True:
        made = make(rng)
        if is_held_out(made.key) == held_out:
            return made


def speak(rng, text):
    """The same text as another person would type it."""
    roll = rng.random()
    if roll < 0.10:
        text = text.rstrip("?.!")
    elif roll < 0.20:
        text = text[0].lower() + text[1:]
    elif roll < 0.28:
        text = text.lower().rstrip("?.")
    elif roll < 0.33:
        text = rng.choice(["Please tell me: ", "Hey, ", "Question: ", "Hi! ", "Quick question: "]) + text
    elif roll < 0.37:
        text = text.rstrip("?.!") + rng.choice([", please.", " please", ", please?"])
    elif roll < 0.39:
        text = text.upper()
    return text


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def gibberish(rng):
    """A word that nobody has seen, for what must be copied and cannot be known."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3))) + rng.choice(["", "n", "r", "s"])


# --- simple questions ---


def pick(rng, skill, fact, phrasings, answer, brief, think):
    i = rng.randrange(len(phrasings))
    return Exchange(f"{skill}|{fact}|{i}", speak(rng, phrasings[i]), answer, think, brief)


def capital(rng):
    country, city = rng.choice(list(w.CAPITALS.items()))
    if rng.random() < 0.2:
        return pick(rng, "capital-of", city, [
            f"{city} is the capital of which country?", f"Which country has the capital {city}?", f"Of which country is {city} the capital?",
        ], f"{city} is the capital of {country}.", country, f"The user asks which country has the capital {city}. That is {country}.")
    return pick(rng, "capital", country, [
        f"What is the capital of {country}?", f"Which city is the capital of {country}?", f"Name the capital of {country}.",
        f"Tell me the capital of {country}.", f"What's the capital city of {country}?", f"capital of {country}?",
        f"Do you know the capital of {country}?", f"{country}: what is its capital?",
    ], f"The capital of {country} is {city}.", city, f"The user asks for the capital of {country}. That is {city}.")


def language(rng):
    country, tongue = rng.choice(list(w.LANGUAGES.items()))
    return pick(rng, "language", country, [
        f"Which language do people speak in {country}?", f"What language is spoken in {country}?", f"What do they speak in {country}?",
        f"Which language is used in {country}?",
    ], f"People in {country} speak {tongue}.", tongue, f"The user asks for the language of {country}. That is {tongue}.")


def colour(rng):
    thing, shade = rng.choice(list(w.COLOURS_OF.items()))
    return pick(rng, "colour", thing, [
        f"What colour is {thing}?", f"What color is {thing}?", f"Which colour does {thing} have?", f"Tell me the colour of {thing}.",
        f"What is the colour of {thing}?", f"Do you know the colour of {thing}?",
    ], f"{thing[0].upper()}{thing[1:]} is {shade}.", shade, f"The user asks for the colour of {thing}. It is {shade}.")


def animal(rng):
    roll = rng.random()
    if roll < 0.3:
        name, sound = rng.choice(list(w.SOUNDS.items()))
        return pick(rng, "sound", name, [
            f"What sound does a {name} make?", f"What does a {name} do to make noise?", f"Which sound does the {name} make?", f"How does a {name} sound?",
        ], f"A {name} {sound}.", sound, f"The user asks for the sound of a {name}. It {sound}.")
    if roll < 0.6:
        name, young = rng.choice(list(w.YOUNG.items()))
        return pick(rng, "young", name, [
            f"What is a young {name} called?", f"What do you call a baby {name}?", f"What is the name for a young {name}?", f"A baby {name} is called what?",
        ], f"A young {name} is called a {young}.", young, f"The user asks for the young of a {name}. That is a {young}.")
    name, legs = rng.choice(list(w.LEGS.items()))
    return pick(rng, "legs", name, [
        f"How many legs does {article(name)} have?", f"Number of legs of {article(name)}?", f"How many legs has {article(name)}?", f"Tell me how many legs {article(name)} has.",
    ], f"{article(name)[0].upper()}{article(name)[1:]} has {legs} legs.", str(legs), f"The user asks for the legs of {article(name)}. It has {legs}.")


def kind(rng):
    name, what = rng.choice(list(w.KIND_OF.items()))
    return pick(rng, "kind", name, [
        f"What is {article(name)}?" if name[0].islower() else f"What is {name}?", f"What kind of thing is {name}?", f"Explain {name} in a few words.",
    ], f"{name[0].upper()}{name[1:]} is {article(what)}.", what, f"The user asks what {name} is. It is {article(what)}.")


def opposite(rng):
    pair = rng.choice(w.OPPOSITES)
    if rng.random() < 0.5:
        pair = pair[::-1]
    a, b = pair
    return pick(rng, "opposite", a, [
        f"What is the opposite of {a}?", f"Give me the opposite of {a}.", f"Opposite of {a}?", f"Which word is the opposite of {a}?",
        f"What's the opposite of '{a}'?", f"Tell me the opposite of \"{a}\".",
    ], f"The opposite of {a} is {b}.", b, f"The user asks for the opposite of {a}. That is {b}.")


def calendar(rng):
    names, what = rng.choice([(w.DAYS, "day"), (w.MONTHS, "month")])
    i = rng.randrange(len(names))
    after = rng.random() < 0.6
    other = names[(i + (1 if after else -1)) % len(names)]
    side = "after" if after else "before"
    return pick(rng, f"calendar-{side}", names[i], [
        f"Which {what} comes {side} {names[i]}?", f"What {what} is {side} {names[i]}?", f"What is the {what} {side} {names[i]}?",
        f"Tell me the {what} {side} {names[i]}.", f"What comes {side} {names[i]}?",
    ], f"The {what} {side} {names[i]} is {other}.", other, f"The user asks for the {what} {side} {names[i]}. That is {other}.")


def alphabet(rng):
    i = rng.randrange(1, 25)
    after = rng.random() < 0.6
    letter, other, side = w.LETTERS[i], w.LETTERS[i + (1 if after else -1)], "after" if after else "before"
    return pick(rng, f"letter-{side}", letter, [
        f"Which letter comes {side} {letter}?", f"What letter is {side} {letter}?", f"What is the letter {side} {letter} in the alphabet?",
    ], f"The letter {side} {letter} is {other}.", other, f"The user asks for the letter {side} {letter}. That is {other}.")


def quantity(rng):
    what, (answer, number) = rng.choice(list(w.QUANTITIES.items()))
    return pick(rng, "quantity", what, [
        f"How many {what}?", f"Tell me how many {what}.", f"Do you know how many {what}?", f"I want to know how many {what}.",
    ], answer, number, f"The user asks how many {what}. The number is {number}.")


def spelling(rng):
    word = rng.choice(w.SPELLABLE)
    spelt = "-".join(word.upper())
    return pick(rng, "spelling", word, [
        f"Spell {word}.", f"How do you spell {word}?", f"Spell the word {word}.", f"Please spell \"{word}\".", f"What are the letters of {word}?",
    ], f"{spelt}.", spelt, f"The user wants the letters of {word}: {spelt}.")


def counting(rng):
    low = rng.choice([1, 1, rng.randint(2, 40)])
    high = low + rng.randint(2, 9)
    numbers = ", ".join(map(str, range(low, high + 1)))
    phrasings = [f"Count from {low} to {high}.", f"Can you count from {low} to {high}?", f"Count up from {low} to {high}."]
    if low == 1:
        phrasings += [f"Count to {high}.", f"Please count to {high}."]
    return pick(rng, "counting", f"{low}-{high}", phrasings, f"{numbers}.", numbers, f"The user wants the numbers from {low} to {high}.")


def small_talk(rng):
    user, answer = rng.choice(w.GREETINGS)
    return Exchange("talk", speak(rng, user), answer, "The user talks to me. I answer politely.")


def unknown(rng):
    name = gibberish(rng).capitalize()
    return pick(rng, "unknown", name, [
        f"What is the capital of {name}?", f"Who is {name}?", f"What is {article(name.lower())}?", f"What colour is {article(name.lower())}?",
        f"Where is {name}?",
    ], "I am only a tiny model and do not know that.", "", f"I do not know {name}.")


# --- sums ---


def carry_steps(a, b):
    """Adding two numbers digit by digit, in words."""
    steps, carry, place = [], 0, 0
    names = ["ones", "tens", "hundreds"]
    while a or b or not steps:
        x, y = a % 10, b % 10
        total = x + y + carry
        terms = f"{x} + {y}" + (" + 1" if carry else "")
        steps.append(f"{names[place].capitalize()}: {terms} = {total}" + (f", write {total % 10}, carry 1." if total > 9 else "."))
        a, b, carry, place = a // 10, b // 10, int(total > 9), place + 1
    if carry:
        steps.append("Write the carry 1.")
    return " ".join(steps)


def addition(rng, top=99):
    a, b = rng.randint(0, top), rng.randint(0, top)
    if rng.random() < 0.15:
        a, b = rng.randint(0, 12), rng.randint(0, 12)
    return asked_sum(rng, "+", a, b, a + b, f"{carry_steps(a, b)} So {a} + {b} = {a + b}.", [
        f"What is {a} plus {b}?", f"Add {a} and {b}.", f"What is the sum of {a} and {b}?", f"How much is {a} plus {b}?"])


def big_addition(rng):
    a, b = rng.randint(100, 999), rng.randint(10, 999)
    return asked_sum(rng, "+", a, b, a + b, f"{carry_steps(a, b)} So {a} + {b} = {a + b}.", [
        f"What is {a} plus {b}?", f"Add {a} and {b}.", f"What is the sum of {a} and {b}?", f"How much is {a} plus {b}?"])


def subtraction(rng):
    a = rng.randint(0, 100)
    b = rng.randint(0, a)
    tens, ones = b // 10 * 10, b % 10
    return asked_sum(rng, "-", a, b, a - b, f"{a} - {tens} = {a - tens}. {a - tens} - {ones} = {a - b}. So {a} - {b} = {a - b}.", [
        f"What is {a} minus {b}?", f"Subtract {b} from {a}.", f"Take {b} away from {a}.", f"How much is {a} minus {b}?"])


def multiplication(rng):
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    sign = rng.choice(["*", "x", "*"])
    return asked_sum(rng, sign, a, b, a * b, f"{a} times {b} is {a * b}.", [
        f"What is {a} times {b}?", f"Multiply {a} by {b}.", f"How much is {a} times {b}?"])


def asked_sum(rng, sign, a, b, result, think, in_words):
    if rng.random() < 0.4:
        text = rng.choice(in_words)
    else:
        term = f"{a}{sign}{b}" if rng.random() < 0.15 else f"{a} {sign} {b}"
        text = rng.choice([
            f"What is {term}?", f"What is {term}?", f"{term}", f"{term} =", f"{term} = ?", f"Calculate {term}.", f"How much is {term}?",
            f"Compute {term}.", f"Can you work out {term}?", f"Solve {term}.", f"What's {term}?"])
    key = f"sum|{'x' if sign == '*' else sign}|{a}|{b}"
    return Exchange(key, speak(rng, text), f"{a} {sign} {b} = {result}.", think, str(result))


def chain_sum(rng):
    numbers = [rng.randint(1, 30) for _ in range(rng.randint(3, 4))]
    total, steps = numbers[0], []
    for n in numbers[1:]:
        steps.append(f"{total} + {n} = {total + n}.")
        total += n
    term = " + ".join(map(str, numbers))
    text = rng.choice([f"What is {term}?", f"{term}", f"Add {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}."])
    return Exchange(f"chain|{term}", speak(rng, text), f"{term} = {total}.", " ".join(steps), str(total))


def word_problem(rng):
    name, thing = rng.choice(w.NAMES), rng.choice(["apples", "books", "coins", "eggs", "cards", "flowers", "pencils", "stones"])
    a, b = rng.randint(2, 50), rng.randint(1, 40)
    if rng.random() < 0.5:
        user = rng.choice([f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have?",
                           f"{name} finds {a} {thing} and then {b} {thing}. How many {thing} is that?"])
        sign, total = "+", a + b
    else:
        a = max(a, b)
        user = rng.choice([f"{name} has {a} {thing} and gives away {b}. How many {thing} does {name} have left?",
                           f"{name} has {a} {thing} and loses {b}. How many {thing} are left?"])
        sign, total = "-", a - b
    answer = f"{a} {sign} {b} = {total}, so {total} {thing}."
    return Exchange(f"problem|{sign}|{a}|{b}", user, answer, f"I need {a} {sign} {b}. That is {total}.", str(total))


def comparison(rng):
    a, b = rng.sample(range(1, 200), 2)
    larger = rng.random() < 0.6
    word = rng.choice(["larger", "bigger", "greater"]) if larger else rng.choice(["smaller", "less"])
    best = max(a, b) if larger else min(a, b)
    return Exchange(f"compare|{a}|{b}", speak(rng, f"Which number is {word}, {a} or {b}?"), f"{best} is {word}.", f"I compare {a} and {b}. {best} is {word}.", str(best))


def parity(rng):
    n = rng.randint(0, 300)
    what = "odd" if n % 2 else "even"
    return Exchange(f"parity|{n}", speak(rng, rng.choice([f"Is {n} even or odd?", f"Is {n} odd or even?"])), f"{n} is {what}.", f"The last digit of {n} is {n % 10}, so it is {what}.", what)


FACTS = [capital, capital, language, colour, colour, animal, animal, kind, opposite, opposite, calendar, alphabet, quantity, spelling, counting, unknown]
SUMS = [addition] * 8 + [subtraction] * 4 + [multiplication] * 2 + [word_problem] * 2 + [comparison, parity, chain_sum]
DEEP_SUMS = SUMS + [big_addition] * 5 + [chain_sum] * 4  # these want thinking


def any_exchange(rng, thinking=False):
    roll = rng.random()
    if roll < 0.06:
        return small_talk(rng)
    if roll < 0.40:
        return draw(rng, rng.choice(FACTS))
    return draw(rng, rng.choice(DEEP_SUMS if thinking else SUMS))


# --- conversations of simple questions ---


def start(rng, thinking=None):
    conversation = Conversation(thinking=rng.random() < 0.4 if thinking is None else thinking)
    if conversation.thinking and rng.random() < 0.06:
        conversation.effort = rng.choice([chat.EFFORT_A, chat.EFFORT_B])
    return conversation


def questions(rng, turns):
    """Some questions, one after the other; sometimes a system prompt that wants short answers."""
    conversation = start(rng)
    brief = rng.random() < 0.08
    if brief:
        conversation.add("system", rng.choice(w.BRIEF_SYSTEM))
    elif rng.random() < 0.25:
        conversation.add("system", rng.choice(w.SYSTEM_PROMPTS))
    for _ in range(turns):
        exchange = any_exchange(rng, conversation.thinking)
        conversation.add("user", exchange.user)
        conversation.reply(exchange.brief if brief and exchange.brief else exchange.answer, exchange.think)
    return conversation
