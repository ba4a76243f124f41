"""What an instruction asks for, as a value; and how far a table is from it."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from syvla.errors import ConfigError
from syvla.message import Float64
from syvla.sim.scene import Episode, Scene, Table

Side = Literal["left", "right"]
SPLITS: tuple[str, ...] = ("id", "ood_position", "ood_wording")
PUSHED_M = 0.06  # a container counts as pushed from here on
ENOUGH_M = 0.075  # and is thought to be from here on: whoever sees it a centimetre too far has pushed it all the same

_HAND_SHARE = 0.6  # at 1 what lies on the way from the hand to the middle would be as near as the hand itself


@dataclass(frozen=True)
class Goal:
    """``count`` of the ``candidates`` lie in ``container`` and nothing else does; then it is pushed, if at all."""

    container: str
    candidates: tuple[str, ...]
    count: int
    push: Side | None = None

    @property
    def any_will_do(self) -> bool:
        """Whether it is left open which of the candidates."""
        return self.count < len(self.candidates)


class LanguageTask(Protocol):
    """A :class:`~syvla.sim.scene.Task` whose goal can be read from the instruction."""

    name: str
    splits: tuple[str, ...]

    def reset(self, seed: int, split: str) -> Episode:
        """The episode of ``seed`` in ``split``; ConfigError names the valid splits."""
        ...

    def goal(self, instruction: str) -> Goal | None:
        """What ``instruction`` asks for, by vocabulary; None if that cannot be told."""
        ...

    def chain_of_thought(self, goal: Goal, table: Table, rest_m: float) -> str:
        """What a perfect planner would think; ``rest_m`` is where the goal's container stood at first (its y)."""
        ...


@dataclass
class LanguageEpisode:
    """One laying of the table, judged by the goal in its instruction."""

    task: LanguageTask
    scene: Scene
    instruction: str
    wanted: Goal

    def chain_of_thought(self, table: Table) -> str:
        """What a perfect planner would think, seeing ``table``."""
        return self.task.chain_of_thought(self.wanted, table, self._rest_m)

    def progress(self, table: Table) -> float:
        """Share of the things that are where they belong, the push counting as one; wrong ones take away."""
        wanted = self.wanted
        loaded = loaded_of(wanted, table)
        right = wanted.count - abs(len(loaded) - wanted.count)
        wrong = sum(bool(where) for where in table.inside) - len(loaded)
        steps = wanted.count
        done = float(max(right - wrong, 0))
        if wanted.push is not None:
            steps += 1
            if done == wanted.count:
                done += min(max(pushed_m(wanted, table, self._rest_m) / PUSHED_M, 0.0), 1.0)
        return done / steps

    def success(self, table: Table) -> bool:
        """Whether exactly the wanted things lie in the container, pushed if that was asked, and no hand holds any."""
        wanted = self.wanted
        inside = sum(bool(where) for where in table.inside)
        return (
            len(loaded_of(wanted, table)) == inside == wanted.count
            and not any(table.held_by)
            and (wanted.push is None or pushed_m(wanted, table, self._rest_m) >= PUSHED_M)
        )

    @property
    def _rest_m(self) -> float:
        return next(c.centre_m[1] for c in self.scene.containers if c.name == self.wanted.container)


def loaded_of(goal: Goal, table: Table) -> tuple[str, ...]:
    """The candidates that lie in the goal's container."""
    return tuple(name for name in table.contents(goal.container) if name in goal.candidates)


def pushed_m(goal: Goal, table: Table, rest_m: float) -> float:
    """How far the container was pushed to the wanted side, from where it stood at first."""
    moved = float(table.position_m(goal.container)[1]) - rest_m
    return moved if goal.push == "left" else -moved


def far_m(place_m: Sequence[float] | Float64, hand_m: Sequence[float] | Float64) -> float:
    """How far a place is where any of several will do: from the robot's middle, and by a share from the hand (x, y).

    The share keeps a hand that has set off at what it goes for. It is not the distance from the hand alone: a hand at
    home stands amidst the things, so that the nearest two often were as near (2.5 cm apart in the median, now 4.0), and
    a planner that saw now the one nearer and now the other sent the hand between them.
    """
    x, y = float(place_m[0]), float(place_m[1])
    return math.hypot(x, y) + _HAND_SHARE * math.hypot(x - float(hand_m[0]), y - float(hand_m[1]))


def generator(task: str, split: str, seed: int) -> np.random.Generator:
    """The same numbers for the same episode on every machine; ConfigError for an unknown split."""
    if split not in SPLITS:
        raise ConfigError(f"task {task!r} has no split {split!r}; there are {', '.join(SPLITS)}")
    digest = hashlib.sha256(f"{task}/{split}/{seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def in_words(items: tuple[str, ...]) -> str:
    """The items as a list in a sentence: "the a, the b and the c"."""
    named = [f"the {item}" for item in items]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
