"""One goal in many wordings: what matters is always said, the rest varies, and some of it nobody has ever read."""

import re

import numpy as np
import pytest

from syvla.sim.tasks.goal import Goal
from syvla.sim.tasks.math_packaging import BOX, CANDIES
from syvla.sim.tasks.table_play import TablePlay
from syvla.sim.tasks.wording import instruction

PLAY = TablePlay()
GOALS = (
    Goal("white tray", ("red cube",), 1),
    Goal("black tray", ("yellow bar", "blue can", "purple cube"), 3),
    Goal(BOX, ("green can", "orange bar"), 2),
    Goal("white tray", CANDIES, 1),
    Goal(BOX, CANDIES, 6),
    Goal(BOX, CANDIES, 1, "left"),
    Goal(BOX, CANDIES, 5, "right"),
)


def texts_of(goal: Goal, count: int = 400) -> list[str]:
    return [instruction(np.random.default_rng(seed), goal) for seed in range(count)]


@pytest.mark.parametrize("goal", GOALS, ids=[f"{g.candidates[0]}-{g.count}-{g.container}-{g.push}" for g in GOALS])
def test_every_wording_says_the_goal(goal: Goal) -> None:
    for text in texts_of(goal):
        assert PLAY.goal(text) == goal, text
        assert not re.search(r"[{}]|  | [.!?,]|[,:;][.!?,:;]|(^|[.!?] )[a-z]", text), text
        assert text[-1] in ".!?"


@pytest.mark.parametrize("goal", GOALS[:3])
def test_things_are_named_in_the_order_of_the_goal(goal: Goal) -> None:
    """A thought goes through them in that order."""
    colours = [name.split()[0] for name in goal.candidates]
    for text in texts_of(goal):
        assert [word for word in re.findall(r"[a-z]+", text.lower()) if word in colours] == colours, text


def test_wordings_vary() -> None:
    texts = texts_of(GOALS[-1])
    assert len(set(texts)) > 380
    assert len({" ".join(text.split()[:2]) for text in texts}) > 100


def test_some_words_are_read_once_in_a_lifetime() -> None:
    """A planner that knows every word of its training is at a loss for the first that it does not know."""
    words = [word for text in texts_of(GOALS[0], 1000) for word in re.findall(r"[a-z]{4,}", text.lower())]
    once = [word for word in set(words) if words.count(word) == 1]
    assert len(once) > 200
