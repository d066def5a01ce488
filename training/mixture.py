"""What share of the training each kind of conversation has."""

from conversations import questions
from retrieval import long_text
from tools import tool_session


def sample(rng, budget):
    """One conversation of any kind that will take about `budget` tokens; the caller checks whether it fits."""
    roll = rng.random()
    if budget >= 700 and roll < 0.20:
        return tool_session(rng)
    if budget >= 250 and roll < 0.42:
        return long_text(rng, budget - 100)
    return questions(rng, 1 + min(int(rng.expovariate(0.35)), budget // 80))
