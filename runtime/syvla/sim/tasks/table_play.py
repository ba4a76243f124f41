"""Table play, for pre-training: one or two snacks, or a few candies, anywhere on the table, into any container."""

import re
from dataclasses import replace

import numpy as np

from syvla.errors import ConfigError
from syvla.sim.scene import Container, FreeObject, Scene, Table
from syvla.sim.tasks.goal import ENOUGH_M, Goal, LanguageEpisode, Side, generator, loaded_of, pushed_m
from syvla.sim.tasks.layout import spread
from syvla.sim.tasks.math_packaging import BOX, CANDIES, NEXT_CANDY, MathPackaging, next_candy
from syvla.sim.tasks.snack_loading import SNACKS, TRAYS, SnackLoading
from syvla.sim.tasks.wording import instruction
from syvla.sim.tasks.words import names_in, numbers_in

# One compiled model serves every seed, so what an episode does not use stands in the store, out of every camera's view.
STORE_X_M = -2.0
MOST_NAMED, MOST_PUSHED, MOST_LAID = 2, 5, 6

_SNACKS, _CANDIES = SnackLoading(), MathPackaging()
_SCENES = (_SNACKS.reset(0, "id").scene, _CANDIES.reset(0, "id").scene)
_OBJECTS = tuple(thing for scene in _SCENES for thing in scene.objects)
_BOX_Y_M = 0.03

_SIDE = re.compile(r"\b(left|right)\b")


class TablePlay:
    """Four to eight things of both tasks and one task's containers; the whole reachable table is used."""

    name = "table_play"
    splits: tuple[str, ...] = ("id",)

    def reset(self, seed: int, split: str) -> LanguageEpisode:
        """The episode of ``seed`` in ``split``; ConfigError names the valid splits."""
        if split not in self.splits:
            raise ConfigError(f"task {self.name!r} has no split {split!r}; there are {', '.join(self.splits)}")
        rng = generator(self.name, split, seed)
        goal, snacks, candies = _of_candies(rng) if rng.random() < 0.45 else _of_snacks(rng)
        spots = _spots(rng, snacks, candies)
        containers = _containers(rng, goal)
        return LanguageEpisode(self, _scene(rng, spots, containers), instruction(rng, goal), goal)

    def goal(self, instruction: str) -> Goal | None:
        """The snacks, or the number of candies, and the container that ``instruction`` names; None without one."""
        found = [f"{before} {noun}" if noun != BOX else noun for before, noun in names_in(instruction)]
        containers = [name for name in found if name in TRAYS or name == BOX]
        snacks = tuple(dict.fromkeys(name for name in found if name in SNACKS))
        total = sum(numbers_in(instruction))
        if not containers or not (snacks or 1 <= total <= len(CANDIES)):
            return None
        sides: list[Side] = _SIDE.findall(instruction.lower())
        push = sides[-1] if sides and containers[0] == BOX else None
        return Goal(containers[0], snacks or CANDIES, len(snacks) or total, push)

    def chain_of_thought(self, goal: Goal, table: Table, rest_m: float) -> str:
        """What was asked, how far it is, what comes next; of snacks in the words of their own task."""
        if goal.candidates != CANDIES:
            return _SNACKS.chain_of_thought(goal, table, rest_m)
        count = len(loaded_of(goal, table))
        text = f"The sum makes {goal.count}. The {goal.container} holds {count} of {goal.count} candies."
        if count < goal.count:
            holder = next(
                (table.held_by[table.index[name]] for name in CANDIES if table.held_by[table.index[name]]), ""
            )
            if holder:
                return f"{text} Next the {holder} arm drops the candy it holds."
            arm = "left" if table.position_m(next_candy(goal, table))[1] > 0.0 else "right"
            return f"{text} Next the {arm} arm {NEXT_CANDY}."
        if goal.push is None:
            return f"{text} Everything is packed, so the arms go home."
        if pushed_m(goal, table, rest_m) < ENOUGH_M:
            pusher = "right" if goal.push == "left" else "left"
            return f"{text} Next the {pusher} arm pushes the {goal.container} to the {goal.push}."
        return f"{text} The {goal.container} is on the {goal.push}, so the arms go home."


def on_table(scene: Scene) -> tuple[str, ...]:
    """The names of what is not in the store."""
    laid = [(o.name, o.position_m[0]) for o in scene.objects] + [(c.name, c.centre_m[0]) for c in scene.containers]
    return tuple(name for name, x in laid if x > STORE_X_M / 2.0)


# ---------------------------------------------------------------- what is wanted


def _of_snacks(rng: np.random.Generator) -> tuple[Goal, list[str], list[str]]:
    """One or two of the snacks on the table into any container, with candies about."""
    container = (*TRAYS, BOX)[int(rng.integers(3))]
    named = int(rng.integers(1, MOST_NAMED + 1))
    total = int(rng.integers(4, MOST_LAID + 1))
    snacks = [list(SNACKS)[i] for i in rng.permutation(len(SNACKS))[: int(rng.integers(max(named, 2), total + 1))]]
    goal = Goal(container, tuple(snacks[:named]), named)
    return goal, snacks, list(CANDIES[: total - len(snacks)])


def _of_candies(rng: np.random.Generator) -> tuple[Goal, list[str], list[str]]:
    """Some of all six candies into any container, with a snack or two about; only a box that is pushed takes many."""
    container = BOX if rng.random() < 0.7 else list(TRAYS)[int(rng.integers(2))]
    push: Side | None = None
    if container == BOX and rng.random() < 0.6:
        push = ("left", "right")[int(rng.integers(2))]
    count = int(rng.integers(1, (MOST_NAMED if push is None else MOST_PUSHED) + 1))
    snacks = [list(SNACKS)[i] for i in rng.permutation(len(SNACKS))[: int(rng.integers(3))]]
    return Goal(container, CANDIES, count, push), snacks, list(CANDIES)


# ---------------------------------------------------------------- what lies where


def _spots(rng: np.random.Generator, snacks: list[str], candies: list[str]) -> dict[str, tuple[float, float]]:
    """Where each thing lies: the snacks on either side, the candies mostly together."""
    sides: dict[Side, list[str]] = {"left": [], "right": []}
    order: tuple[Side, Side] = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    apart = rng.random() < 0.4
    for i, name in enumerate(candies):  # halves: an arm has three places in a box
        sides[order[2 * i // len(CANDIES) if apart else 0]].append(name)
    for name in snacks:
        sides[order[int(rng.integers(2))]].append(name)
    return {
        name: spot
        for side, names in sides.items()
        if names
        for name, spot in zip(names, spread(rng, side, len(names), None, spacing_m=0.075), strict=True)
    }


def _containers(rng: np.random.Generator, goal: Goal) -> tuple[Container, ...]:
    """Both trays, or the box, where their own task puts them; a box that is to be pushed begins on the other side."""
    seed = int(rng.integers(1 << 30))
    trays, (box,) = _SNACKS.reset(seed, "id").scene.containers, _CANDIES.reset(seed, "id").scene.containers
    if goal.container == BOX:
        y = float(rng.uniform(-_BOX_Y_M, _BOX_Y_M)) if goal.push is None else _BOX_Y_M
        box = replace(box, centre_m=(box.centre_m[0], -y if goal.push == "left" else y))
        return (*(replace(tray, centre_m=(STORE_X_M, 0.3 * (i + 1))) for i, tray in enumerate(trays)), box)
    return (*trays, replace(box, centre_m=(STORE_X_M, 0.0)))


def _scene(rng: np.random.Generator, spots: dict[str, tuple[float, float]], containers: tuple[Container, ...]) -> Scene:
    objects: list[FreeObject] = []
    for i, thing in enumerate(_OBJECTS):
        x, y = spots.get(thing.name, (STORE_X_M, -0.3 - 0.1 * i))
        yaw = float(rng.uniform(-3.14, 3.14))
        objects.append(replace(thing, position_m=(x, y, thing.size_m[2] / 2.0), yaw_rad=yaw))
    return Scene(tuple(objects), containers)
