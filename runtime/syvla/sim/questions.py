"""Questions about a table with short answers: what colour, how many, which side, where, which arm, and small sums.

Answers are canonical: lower case, numbers in digits, things by their own names, places in the words of
:func:`~syvla.sim.tasks.words.place_in_words`. Questions vary, with synonyms. One kind is an order as the tasks word it,
answered by what a perfect planner thinks; no question is worded like an instruction of an unseen split.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from syvla.messages import ARMS, ArmName
from syvla.sim.orders import order
from syvla.sim.scene import Table
from syvla.sim.tasks.math_packaging import BOX, CANDIES
from syvla.sim.tasks.snack_loading import SNACKS, TRAYS
from syvla.sim.tasks.words import NUMBERS, called, place_in_words, state_in_words

CONTAINERS = (*TRAYS, BOX)
MIDDLE_M = 0.012  # a box nearer to the middle than this is not asked for its side
_SKIP_NOTHING = 0.6  # share of the answers 0 and nothing that are not asked for: there are so many
_SKIP_EMPTY_HANDS = 0.85
_TRIES = 20


class Question(NamedTuple):
    """One pair.

    ``point`` is where the thing asked about is, (x, y) [m] in the world frame; ``kind`` what sort of question it is;
    ``named`` where the things are that an order names.
    """

    question: str
    answer: str
    point: tuple[float, float] | None = None
    kind: str = ""
    named: tuple[tuple[float, float], ...] = ()


class View:
    """A table as the questions see it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.snacks = tuple(name for name in table.names if name in SNACKS)
        self.candies = tuple(name for name in table.names if name in CANDIES)
        self.trays = tuple(name for name in table.names if name in TRAYS)
        self.containers = (*self.trays, *((BOX,) if BOX in table.index else ()))
        self.things = (*self.snacks, *self.candies)
        self.loose = tuple(name for name in self.things if not self.inside(name) and not self.held_by(name))

    def inside(self, name: str) -> str:
        """The container it lies in, or ""."""
        return self.table.inside[self.table.index[name]]

    def held_by(self, name: str) -> str:
        """The arm that holds it, or ""."""
        return self.table.held_by[self.table.index[name]]

    def held(self, arm: ArmName) -> str:
        """What the arm holds, or ""."""
        return next((name for name in self.things if self.held_by(name) == arm), "")

    def point(self, name: str) -> tuple[float, float]:
        """Where it is (x, y) [m]."""
        x, y, _ = self.table.position_m(name).tolist()
        return round(x, 4), round(y, 4)

    def place(self, name: str) -> str:
        """Where it is, in words."""
        return place_in_words(*self.point(name))

    def side(self, name: str) -> str:
        """Left or right."""
        return "left" if self.point(name)[1] >= 0.0 else "right"


def ask(table: Table, count: int, rng: np.random.Generator) -> list[Question]:
    """``count`` different questions about ``table`` (at most 20)."""
    view = View(table)
    asked: dict[str, Question] = {}
    shares = np.array([share for _, _, share in _KINDS])
    for _ in range(_TRIES * count):
        kind, make, _ = _KINDS[int(rng.choice(len(_KINDS), p=shares / shares.sum()))]
        question = make(view, rng)
        if question is not None:
            asked.setdefault(question.question, question._replace(kind=kind))
        if len(asked) == count:
            break
    return list(asked.values())


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """One of them, or "" where there is none."""
    return _pick(rng, choices) if choices else ""


def kind_of(name: str) -> str:
    """What a thing is called in an answer: candies have no names of their own."""
    return "candy" if name in CANDIES else name


def _asked(view: View, rng: np.random.Generator) -> tuple[str, str]:
    """A thing and words that only it answers to: a snack or container by name, a candy by where it lies."""
    loose = [name for name in view.candies if name in view.loose]
    if loose and rng.random() < 0.3:
        words, order = _EXTREMES[int(rng.integers(len(_EXTREMES)))]
        return min(loose, key=lambda name: order(view.point(name))), f"the {words} candy"
    name = _pick(rng, (*view.snacks, *view.containers))
    return name, f"the {called(name, rng)}"


_EXTREMES: tuple[tuple[str, Callable[[tuple[float, float]], float]], ...] = (
    ("leftmost", lambda point: -point[1]),
    ("rightmost", lambda point: point[1]),
    ("nearest", lambda point: point[0]),
    ("farthest", lambda point: -point[0]),
)


# ---------------------------------------------------------------- places


def _where(view: View, rng: np.random.Generator) -> Question:
    name, words = _asked(view, rng)
    text = _pick(rng, ("Where is {}?", "Where does {} lie?", "Find {}.", "At which place is {}?", "Point to {}."))
    return Question(text.format(words), view.place(name), view.point(name))


def _which_side(view: View, rng: np.random.Generator) -> Question | None:
    name = _one(rng, [name for name in view.snacks if name in view.loose])
    if not name:
        return None
    text = _pick(rng, ("Which side is {} on?", "On which side is {}?", "Is {} left or right?"))
    return Question(text.format(f"the {called(name, rng)}"), view.side(name), view.point(name))


def _box_side(view: View, rng: np.random.Generator) -> Question | None:
    if BOX not in view.containers or abs(view.point(BOX)[1]) < MIDDLE_M:
        return None
    side, words = _pick(rng, ("left", "right")), f"the {called(BOX, rng)}"
    if rng.random() < 0.5:
        text = _pick(rng, ("Is {} on the {}?", "Does {} stand on the {}?"))
        answer = "yes" if view.side(BOX) == side else "no"
        return Question(text.format(words, side), answer, view.point(BOX))
    text = _pick(rng, ("Which side is {} on?", "Is {} left or right?", "On which side is {}?"))
    return Question(text.format(words), view.side(BOX), view.point(BOX))


# ---------------------------------------------------------------- names and numbers


def _colour(view: View, rng: np.random.Generator) -> Question | None:
    """The colour of the only thing of its noun on a side, in a container or in a hand."""
    name = _one(rng, view.snacks if rng.random() < 0.9 else view.candies)  # candies are all pink
    if not name:
        return None
    noun = name.split()[0] if name in CANDIES else name.split()[-1]
    where = view.inside(name) or view.held_by(name) or view.side(name)

    def alike(other: str) -> bool:
        same = where == (view.inside(other) or view.held_by(other) or view.side(other))
        return same and (other in view.loose) == (name in view.loose) and noun in other.split()

    found = [other for other in view.things if alike(other)]
    if len({_COLOURS[other] for other in found}) != 1:
        return None
    noun = called(noun, rng)
    if view.inside(name):
        text = f"What colour is the {noun} in the {called(where, rng)}?"
    elif view.held_by(name):
        text = f"What colour is the {noun} that the {where} arm holds?"
    else:
        text = f"What colour is the {noun} on the {where}?"
    return Question(text, _COLOURS[name], view.point(name) if len(found) == 1 else None)


_COLOURS = {**{name: name.split()[0] for name in SNACKS}, **dict.fromkeys(CANDIES, "pink")}


def _how_many(view: View, rng: np.random.Generator) -> Question | None:
    names, words = [
        (view.snacks, "snacks"),
        (view.candies, "candies"),
        (view.things, "things"),
    ][int(rng.choice(3, p=(0.4, 0.4, 0.2)))]
    places = ["on the table", "on the left", "on the right", *(f"in the {name}" for name in view.containers)]
    place = _pick(rng, places)
    loose = [name for name in names if name in view.loose]
    if place.startswith("in "):
        container = place.removeprefix("in the ")
        total = sum(view.inside(name) == container for name in names)
        place = f"in the {called(container, rng)}"
    elif place == "on the table":
        total = len(loose)
    else:
        total = sum(view.side(name) in place for name in loose)
    if total == 0 and rng.random() < _SKIP_NOTHING:
        return None
    text = _pick(rng, ("How many {} are {}?", "How many {} lie {}?", "How many {} do you see {}?", "Count the {} {}."))
    return Question(text.format(words, place), str(total))


def _is_there(view: View, rng: np.random.Generator) -> Question:
    name = _pick(rng, tuple(SNACKS))
    if rng.random() < 0.5 and view.snacks:
        name = _pick(rng, view.snacks)
    words = called(name, rng)
    article = "an" if words[0] in "aeiou" else "a"
    text = _pick(rng, ("Is there {}?", "Do you see {}?", "Can you see {}?"))
    there = name in view.snacks
    return Question(text.format(f"{article} {words}"), "yes" if there else "no", view.point(name) if there else None)


def _order(view: View, rng: np.random.Generator) -> Question | None:
    """What a task's instruction makes a perfect planner think of this table."""
    found = order(view.table, rng)
    return None if found is None else Question(found.instruction, found.thought, found.point, named=found.named)


def _sum(_: View, rng: np.random.Generator) -> Question:
    a, b = sorted(rng.integers(0, 6, 2).tolist(), reverse=bool(rng.random() < 0.5))
    in_words = rng.random() < 0.5
    first, second = (NUMBERS[a], NUMBERS[b]) if in_words else (str(a), str(b))
    kind = rng.random()
    if kind < 0.2:
        return Question(_pick(rng, ("What is {} in digits?", "Which number is {}?")).format(NUMBERS[a + b]), str(a + b))
    if kind < 0.4 and a >= b:
        text = _pick(rng, ("What is {} minus {}?", "What is {} less {}?"))
        return Question(text.format(first, second), str(a - b))
    texts: tuple[str, ...] = (
        "What is {} plus {}?",
        "What do {} and {} make?",
        "Add {} and {}.",
        "How many are {} and {}?",
    )
    if not in_words:
        texts += ("What is {} + {}?", "{} + {} = ?", "Solve {} + {}.")
    return Question(_pick(rng, texts).format(first, second), str(a + b))


# ---------------------------------------------------------------- containers and hands


def _is_in(view: View, rng: np.random.Generator) -> Question | None:
    """Half of the answers are yes where something lies in a container."""
    name = _one(rng, view.snacks)
    within = [name for name in view.snacks if view.inside(name)]
    if within and rng.random() < 0.5:
        name = _pick(rng, within)
    if not name:
        return None
    container = view.inside(name) if view.inside(name) and rng.random() < 0.7 else _pick(rng, view.containers)
    text = _pick(rng, ("Is {} in {}?", "Does {} lie in {}?", "Is {} already in {}?"))
    text = text.format(f"the {called(name, rng)}", f"the {called(container, rng)}")
    return Question(text, "yes" if view.inside(name) == container else "no", view.point(name))


def _state(view: View, rng: np.random.Generator) -> Question | None:
    name = _one(rng, view.snacks)
    if not name:
        return None
    answer = "on the table" if name in view.loose else state_in_words(view.table, name)
    text = _pick(rng, ("What is {} on or in?", "Is {} on the table, in something or in a hand?"))
    return Question(text.format(f"the {called(name, rng)}"), answer, view.point(name))


def _what_is_held(view: View, rng: np.random.Generator) -> Question | None:
    """Rather an arm that holds something."""
    holding = [arm for arm in ARMS if view.held(arm)]
    if not holding and rng.random() < _SKIP_EMPTY_HANDS:
        return None
    arm: ArmName = ARMS[int(rng.integers(2))]
    if holding and rng.random() < 0.5:
        arm = holding[int(rng.integers(len(holding)))]
    name = view.held(arm)
    text = _pick(rng, ("What does the {} arm hold?", "What is in the {} hand?", "Which thing does the {} arm carry?"))
    return Question(text.format(arm), kind_of(name) if name else "nothing", view.point(name) if name else None)


def _who_holds(view: View, rng: np.random.Generator) -> Question | None:
    """Rather something that is held."""
    held = [name for name in view.things if view.held_by(name)]
    if not held and rng.random() < _SKIP_EMPTY_HANDS:
        return None
    name = _pick(rng, held) if held and rng.random() < 0.7 else _pick(rng, view.things)
    words = f"the {called(name, rng)}"
    if name in CANDIES:
        words = "a candy"
        taken = [candy for candy in view.candies if candy in held]
        if len(taken) > 1:
            return None
        name = taken[0] if taken else name
    arm, point = view.held_by(name), view.point(name) if name in held or name in SNACKS else None
    if rng.random() < (0.5 if arm else 0.2):
        text = _pick(rng, ("Is {} held?", "Is {} in a hand?", "Does an arm hold {}?"))
        return Question(text.format(words), "yes" if arm else "no", point)
    text = _pick(rng, ("Which arm holds {}?", "Who holds {}?", "In which hand is {}?"))
    return Question(text.format(words), arm or "none", point)


_KINDS: tuple[tuple[str, Callable[[View, np.random.Generator], Question | None], float], ...] = (
    ("order", _order, 12.0),  # what it is all for
    ("where", _where, 4.0),
    ("count", _how_many, 2.0),
    ("colour", _colour, 1.0),
    ("side", _which_side, 1.0),
    ("side", _box_side, 0.7),
    ("exists", _is_there, 0.7),
    ("sum", _sum, 1.0),
    ("inside", _is_in, 1.0),
    ("state", _state, 1.5),
    ("held", _what_is_held, 1.0),
    ("held", _who_holds, 1.0),
)
