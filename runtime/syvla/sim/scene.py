"""What lies on the twin's table, and what a task is: plain values, no simulator.

World frame: x forward (away from the robot), y left, z up, the table's top at z = 0. Lengths are metres and full
extents, not halves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from syvla.errors import ConfigError
from syvla.message import Float64
from syvla.messages import SimTruth

Rgba = tuple[float, float, float, float]
Vector3 = tuple[float, float, float]
Shape = Literal["box", "cylinder", "sphere", "capsule"]
SHAPES: tuple[Shape, ...] = ("box", "cylinder", "sphere", "capsule")


@dataclass(frozen=True)
class FreeObject:
    """A rigid thing that can be grasped.

    ``size_m``: box (x, y, z); cylinder (diameter, diameter, height), standing; sphere (d, d, d);
    capsule (length, d, d), lying along its x. ``position_m`` is its centre before the episode.
    """

    name: str
    shape: Shape
    size_m: Vector3
    rgba: Rgba
    position_m: Vector3
    yaw_rad: float = 0.0
    mass_kg: float = 0.05

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.shape not in SHAPES:
            raise ConfigError(f"{self.name}: shape must be one of {', '.join(SHAPES)}, not {self.shape!r}")
        _check(self.name, "size_m", self.size_m, 3, least=1e-3, most=0.5)
        _check(self.name, "mass_kg", (self.mass_kg,), 1, least=1e-3, most=10.0)
        _check(self.name, "position_m and yaw_rad", (*self.position_m, self.yaw_rad), 4)
        a, b, c = self.size_m
        if (self.shape == "cylinder" and a != b) or (self.shape in ("sphere", "capsule") and b != c):
            raise ConfigError(f"{self.name}: the diameters of a {self.shape} must be equal, not {self.size_m}")


@dataclass(frozen=True)
class Slide:
    """A container's rail: it can be pushed along a world axis, ``range_m`` from where it starts."""

    axis: Literal["x", "y"]
    range_m: tuple[float, float]
    friction_n: float = 1.0
    damping_n_s_m: float = 10.0
    mass_kg: float = 0.4


@dataclass(frozen=True)
class Container:
    """An open tray or box that stands on the table: four walls and a floor as thin as paper.

    ``inner_m`` is the clear opening (x, y). With a ``slide`` it can be pushed along a rail.
    """

    name: str
    centre_m: tuple[float, float]
    inner_m: tuple[float, float]
    wall_height_m: float
    rgba: Rgba
    wall_thickness_m: float = 0.006
    slide: Slide | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check(self.name, "inner_m", self.inner_m, 2, least=0.01, most=1.0)
        _check(self.name, "wall_height_m", (self.wall_height_m,), 1, least=0.002, most=0.3)
        _check(self.name, "centre_m", self.centre_m, 2)


@dataclass(frozen=True)
class Scene:
    """Everything on the table, with its first poses."""

    objects: tuple[FreeObject, ...] = ()
    containers: tuple[Container, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"names on the table must differ: {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Objects, then containers: the order of the truth."""
        return (*(o.name for o in self.objects), *(c.name for c in self.containers))

    @property
    def layout(self) -> tuple[object, ...]:
        """What a compiled model depends on; poses and colours can be changed in a compiled one."""
        return (
            tuple((o.name, o.shape, o.size_m, o.mass_kg) for o in self.objects),
            tuple((c.name, c.inner_m, c.wall_height_m, c.wall_thickness_m, c.slide) for c in self.containers),
        )


@dataclass(frozen=True)
class Table:
    """What is where: the part of the truth that a task judges."""

    names: tuple[str, ...]
    pose: Float64  # (N, 7) position [m] and quaternion (w, x, y, z) in the world frame
    held_by: tuple[str, ...]  # for each name: "", "left" or "right"
    inside: tuple[str, ...]  # for each name: the container it lies in, or ""
    hands_m: Float64  # (2, 3) grasp points of the left and the right hand in the world frame
    index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {name: i for i, name in enumerate(self.names)})

    @classmethod
    def of(cls, truth: SimTruth) -> "Table":
        """The table in a truth message."""
        return cls(truth.names, truth.pose, truth.held_by, truth.inside, truth.hands_m)

    def only(self, names: Collection[str]) -> "Table":
        """The table as if nothing but ``names`` were on it."""
        kept = [i for i, name in enumerate(self.names) if name in names]
        return Table(
            tuple(self.names[i] for i in kept),
            self.pose[kept],
            tuple(self.held_by[i] for i in kept),
            tuple(self.inside[i] for i in kept),
            self.hands_m,
        )

    def position_m(self, name: str) -> Float64:
        """(3,) centre of an object, or of a container's floor."""
        position: Float64 = self.pose[self.index[name], :3]
        return position

    def yaw_rad(self, name: str) -> float:
        """Direction of the thing's x axis seen from above."""
        w, x, y, z = self.pose[self.index[name], 3:].tolist()
        return float(np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)))

    def contents(self, container: str) -> tuple[str, ...]:
        """The names of what lies in ``container``."""
        return tuple(name for name, where in zip(self.names, self.inside, strict=True) if where == container)


class Episode(Protocol):
    """One laying of the table with its instruction; a pure function of task, split and seed."""

    scene: Scene
    instruction: str

    def chain_of_thought(self, table: Table) -> str:
        """What a perfect planner would think, seeing ``table``."""
        ...

    def progress(self, table: Table) -> float:
        """How much is done, 0 to 1."""
        ...

    def success(self, table: Table) -> bool:
        """Whether the instruction is fulfilled."""
        ...


class Task(Protocol):
    """A family of episodes. Objects' names, shapes and sizes should not depend on the seed: models are cached."""

    name: str
    splits: tuple[str, ...]

    def reset(self, seed: int, split: str) -> Episode:
        """The episode of ``seed`` in ``split``; ConfigError names the valid splits."""
        ...


def task_named(tasks: Mapping[str, Task], name: str, split: str) -> Task:
    """The task called ``name``, if it has ``split``; ConfigError with the valid choices otherwise."""
    task = tasks.get(name)
    if task is None:
        raise ConfigError(f"no task {name!r}; there are {', '.join(sorted(tasks)) or 'none'}")
    if split not in task.splits:
        raise ConfigError(f"task {name!r} has no split {split!r}; there are {', '.join(task.splits)}")
    return task


def _check_name(name: str) -> None:
    if not name or not name.replace("_", "").replace("-", "").replace(" ", "").isalnum():
        raise ConfigError(f"a thing's name must be letters, digits, spaces, '-' and '_', not {name!r}")


def _check(
    name: str, key: str, values: tuple[float, ...], count: int, least: float = -10.0, most: float = 10.0
) -> None:
    if len(values) != count or not all(least <= v <= most for v in values):  # NaN fails the comparison
        raise ConfigError(f"{name}: {key} must be {count} numbers of {least}..{most}, not {values}")
