"""Long texts with facts planted in them, and questions about the facts.

The facts cannot be guessed: codes, names and places are drawn anew for each text. The text around them is filler, so
a reply is right only if attention reaches back to the one place that says it.
"""

import world as w
from conversations import any_exchange, article, gibberish, is_held_out, speak, start
from dataclasses import dataclass


@dataclass
class Planted:
    """A fact: the sentence that says it, a question about it, the answer."""

    subject: str
    sentence: str
    question: str
    answer: str
    value: str


def code(rng):
    return str(rng.randint(1000, 9999))


def plant_code(rng):
    subject = f"{rng.choice(w.COLOURS)} {rng.choice(w.OBJECTS)}"
    what = rng.choice(["secret code", "secret code", "number", "code"])
    value = code(rng)
    sentence = rng.choice([f"The {what} of the {subject} is {value}.", f"The {what} of the {subject} is {value}.", f"Remember that the {what} of the {subject} is {value}."])
    question = rng.choice([f"What is the {what} of the {subject}?", f"What is the {what} of the {subject}?", f"Tell me the {what} of the {subject}.", f"Which {what} does the {subject} have?"])
    return Planted(subject, sentence, question, f"The {what} of the {subject} is {value}.", value)


def plant_password(rng):
    subject, value = f"{rng.choice(w.COLOURS)} {rng.choice(w.OBJECTS)}", gibberish(rng)
    question = rng.choice([f"What is the password of the {subject}?", f"Tell me the password of the {subject}.", f"Which password opens the {subject}?"])
    return Planted(subject, f"The password of the {subject} is {value}.", question, f"The password of the {subject} is {value}.", value)


def plant_person(rng):
    name = rng.choice(w.NAMES)
    kind = rng.randrange(4)
    if kind == 0:
        value = rng.choice(w.ANIMALS)
        return Planted(name + " animal", f"{name}'s favourite animal is the {value}.", f"What is {name}'s favourite animal?", f"{name}'s favourite animal is the {value}.", value)
    if kind == 1:
        value = rng.choice(w.CITIES)
        return Planted(name + " home", f"{name} lives in {value}.", rng.choice([f"Where does {name} live?", f"In which city does {name} live?"]), f"{name} lives in {value}.", value)
    if kind == 2:
        value = rng.choice(w.JOBS)
        return Planted(name + " job", f"{name} works as {article(value)}.", rng.choice([f"What is {name}'s job?", f"What does {name} work as?"]), f"{name} works as {article(value)}.", value)
    value = code(rng)
    return Planted(name + " phone", f"{name}'s phone number is {value}.", rng.choice([f"What is {name}'s phone number?", f"Which phone number does {name} have?"]), f"{name}'s phone number is {value}.", value)


def plant_train(rng):
    city = rng.choice(w.CITIES)
    value = f"{rng.randint(1, 23)}:{rng.randint(10, 59)}"
    return Planted(city, f"The train to {city} leaves at {value}.", rng.choice([f"When does the train to {city} leave?", f"At what time does the train to {city} leave?"]), f"The train to {city} leaves at {value}.", value)


PLANTS = [plant_code, plant_code, plant_code, plant_password, plant_person, plant_person, plant_train]


def plants(rng, count, held_out, makers=PLANTS):
    """Facts about different subjects, all on one side of the train/held-out split."""
    found = {}
    while len(found) < count:
        fact = rng.choice(makers)(rng)
        if is_held_out(f"plant|{fact.subject}|{fact.value}") == held_out:
            found.setdefault(fact.subject, fact)
    return list(found.values())


def filler(rng):
    time = rng.choice(w.TIMES)
    return rng.choice(w.FILLERS).format(
        adj=rng.choice(w.ADJECTIVES), adj2=rng.choice(w.ADJECTIVES), job=rng.choice(w.JOBS), job2=rng.choice(w.JOBS),
        place=rng.choice(w.PLACES), place2=rng.choice(w.PLACES), time=time, Time=time[0].upper() + time[1:],
        thing=rng.choice(w.THINGS), thing2=rng.choice(w.THINGS), deed=rng.choice(w.DEEDS), animal=rng.choice(w.ANIMALS),
        animal2=rng.choice(w.ANIMALS), food=rng.choice(w.FOODS), food2=rng.choice(w.FOODS))


FILLER_TOKENS = 10  # tokens of one filler sentence, about; `evaluate.py` measures real distances


def compose(rng, facts, tokens):
    """A text of about `tokens` tokens with the facts somewhere in it."""
    sentences = [filler(rng) for _ in range(max(tokens // FILLER_TOKENS, 1))]
    for fact in facts:
        sentences.insert(rng.randrange(len(sentences) + 1), fact.sentence)
    if rng.random() < 0.3:  # in paragraphs
        return "\n".join(" ".join(sentences[i : i + 6]) for i in range(0, len(sentences), 6))
    return " ".join(sentences)


def ask(rng, conversation, fact, opening=""):
    conversation.add("user", opening + (speak(rng, fact.question) if not opening else fact.question))
    conversation.reply(fact.answer, f"I look for the words in the text. {fact.answer}")


def long_text(rng, budget, held_out=False):
    """A conversation about a text of up to `budget` tokens, of a length drawn evenly on a log scale."""
    conversation = start(rng)
    tokens = int(60 * (max(budget - 60, 61) / 60) ** rng.random())
    facts = plants(rng, rng.randint(1, 3 + tokens // 100), held_out)
    asked = rng.sample(facts, min(len(facts), rng.choice([1, 2, 3, 4, 5])))
    shape = rng.random()
    if shape < 0.12:  # told one by one, in between other questions
        for fact in facts[:4]:
            conversation.add("user", rng.choice(["Remember this: ", "", "Please remember: "]) + fact.sentence)
            conversation.reply("I will remember it.", "The user tells me something to remember.")
        asked = [fact for fact in facts[:4] if rng.random() < 0.6] or facts[:1]
        for _ in range(rng.randint(0, 3)):
            exchange = any_exchange(rng, conversation.thinking)
            conversation.add("user", exchange.user)
            conversation.reply(exchange.answer, exchange.think)
        for fact in asked:
            ask(rng, conversation, fact)
        return conversation
    text = compose(rng, facts, tokens)
    if shape < 0.25:
        conversation.add("system", text)
    elif shape < 0.45:
        conversation.add("user", rng.choice(["Read this text:\n\n", "Here is a text.\n\n", ""]) + text)
        conversation.reply("I have read it.", "The user gives me a text.")
    else:
        last = rng.random() < 0.75
        opening = text + "\n\n" if last else rng.choice(["", "Question: "])
        ask(rng, conversation, asked.pop(), opening=opening) if last else conversation.add("system", text)
    for fact in asked:
        ask(rng, conversation, fact)
    return conversation
