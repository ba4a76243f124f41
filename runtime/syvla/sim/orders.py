"""Orders as the tasks give them, for any table, with what a perfect planner would think of it next.

Demonstrations show few tables, each for many frames. Here every picture is a new table with a new order, half done or
hardly begun, so that a planner learns to think from as many tables as it can see. The words are those of the tasks for
training and the many of :mod:`~syvla.sim.tasks.wording`; how the evaluation words its unseen splits is not among them.
"""

from typing import NamedTuple

import numpy as np

from syvla.sim.scene import Table
from syvla.sim.tasks.goal import Goal, LanguageTask, Side, in_words
from syvla.sim.tasks.math_packaging import BOX, CANDIES, MathPackaging, next_candy
from syvla.sim.tasks.math_packaging import TEMPLATES as SUMS
from syvla.sim.tasks.snack_loading import SNACKS, TRAYS, SnackLoading
from syvla.sim.tasks.snack_loading import TEMPLATES as SERVINGS
from syvla.sim.tasks.table_play import TablePlay
from syvla.sim.tasks.wording import instruction
from syvla.sim.tasks.words import called

_SNACKS, _CANDIES, _PLAY = SnackLoading(), MathPackaging(), TablePlay()
_MOST_SNACKS, _MOST_PUSHED, _MOST_LAID = 4, 5, 2
_SNACKS_FIRST = 0.5  # share of the orders of snacks where candies could be ordered as well
_FILLED = 0.6  # share of the orders into a container that has snacks already, where there is one
_PUSHED = 0.8  # share of the boxes that are pushed
_OWN_WORDS = 0.3  # share of the orders in the words of their own task; the others are in one of very many wordings
_FORGOTTEN = 0.1  # share of the things in a container that the order does not name
_REST_M = 0.03  # how far from the middle a box stands before it is pushed


class Order(NamedTuple):
    """``point`` is where the thing is that is fetched next, (x, y) [m] in the world frame; None if nothing is.

    ``named`` is where the things are that the instruction names, the container among them.
    """

    instruction: str
    thought: str
    point: tuple[float, float] | None
    named: tuple[tuple[float, float], ...]


def order(table: Table, rng: np.random.Generator) -> Order | None:
    """An order for ``table``; None if the one that was drawn does not suit it."""
    snacks = [name for name in table.names if name in SNACKS]
    candies = all(name in table.index for name in CANDIES)
    if snacks and (not candies or rng.random() < _SNACKS_FIRST):
        return _of_snacks(table, snacks, rng)
    return _of_candies(table, rng) if candies else None


def _of_snacks(table: Table, snacks: list[str], rng: np.random.Generator) -> Order | None:
    """Some of the snacks into a container: rather one that has snacks already, which then are mostly in the order."""
    containers = [name for name in table.names if name in TRAYS or name == BOX]
    inside = dict(zip(table.names, table.inside, strict=True))
    filled = [name for name in containers if any(inside[snack] == name for snack in snacks)]
    container = _pick(rng, filled if filled and rng.random() < _FILLED else containers)
    named = [name for name in snacks if inside[name] == container and rng.random() >= _FORGOTTEN]
    free = [name for name in snacks if not inside[name]]
    free = [free[i] for i in rng.permutation(len(free))]
    named += free[: int(rng.integers(0 if named else 1, _MOST_SNACKS + 1))]
    named = [named[i] for i in rng.permutation(len(named))[:_MOST_SNACKS]]
    if not named:
        return None
    goal = Goal(container, tuple(named), len(named))
    if rng.random() < _OWN_WORDS:
        words = in_words(goal.candidates if rng.random() < 0.5 else tuple(called(name, rng) for name in named))
        text = _pick(rng, SERVINGS).format(snacks=words, tray=f"the {container}")
        text = text[0].upper() + text[1:]
    else:
        text = instruction(rng, goal)
    thought = _SNACKS.chain_of_thought(goal, table, 0.0)
    held = dict(zip(table.names, table.held_by, strict=True))
    rest = [name for name in named if inside[name] != container]
    following = next((n for n in rest if table.position_m(n)[1] > 0.0), rest[0] if rest else "")
    fetching = following and not any(held[name] for name in rest)
    about = tuple(_point(table, name) for name in (*named, container))
    return Order(text, thought, _point(table, following) if fetching else None, about)


def _of_candies(table: Table, rng: np.random.Generator) -> Order | None:
    """A number of the six candies into a container which, if it is a box, is mostly pushed afterwards."""
    container = _pick(rng, [name for name in table.names if name in TRAYS or name == BOX])
    where = {table.inside[table.index[name]] for name in CANDIES} - {""}
    push: Side | None = None
    if container == BOX and rng.random() < _PUSHED:
        push = ("left", "right")[int(rng.integers(2))]
    done = sum(table.inside[table.index[name]] == container for name in CANDIES)
    most = _MOST_LAID if push is None else _MOST_PUSHED
    if where - {container} or done > most:
        return None
    goal = Goal(container, CANDIES, int(rng.integers(max(done, 1), most + 1)), push)
    task: LanguageTask = _PLAY
    text = instruction(rng, goal)
    if push is not None and goal.count > 1:
        sides = {table.position_m(name)[1] > 0.0 for name in CANDIES if not table.inside[table.index[name]]}
        if sides == {push == "left"}:  # as the task itself lays them
            task = _CANDIES
            if rng.random() < _OWN_WORDS:
                first = int(rng.integers(1, goal.count))
                text = _pick(rng, SUMS).format(a=first, b=goal.count - first, side=push)
    thought = task.chain_of_thought(goal, table, -_REST_M if push == "left" else _REST_M)
    fetching = done < goal.count and not any(table.held_by[table.index[name]] for name in CANDIES)
    about = tuple(_point(table, name) for name in (*CANDIES, container))
    return Order(text, thought, _point(table, next_candy(goal, table)) if fetching else None, about)


def _point(table: Table, name: str) -> tuple[float, float]:
    x, y, _ = table.position_m(name).tolist()
    return round(x, 4), round(y, 4)


def _pick(rng: np.random.Generator, choices: tuple[str, ...] | list[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
