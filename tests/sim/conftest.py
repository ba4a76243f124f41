"""A small table for the twin's own tests: one cube, one ball, a tray, and a box on a rail."""

import pytest

from syvla.config import ArmConfig, CamerasConfig, RigConfig
from syvla.sim.scene import Container, Episode, FreeObject, Scene, Slide, Table, Task

RED, BLUE, GREEN, YELLOW = (0.85, 0.2, 0.2, 1.0), (0.2, 0.4, 0.9, 1.0), (0.3, 0.7, 0.3, 1.0), (0.95, 0.8, 0.2, 1.0)


class _SmallEpisode:
    """Done when the cube lies in the tray."""

    def __init__(self, seed: int) -> None:
        x = 0.30 + 0.01 * (seed % 5)
        self.scene = Scene(
            (
                FreeObject("cube", "box", (0.04, 0.04, 0.04), RED if seed % 2 == 0 else BLUE, (x, 0.25, 0.02), 0.3),
                FreeObject("ball", "sphere", (0.04, 0.04, 0.04), YELLOW, (0.25, -0.25, 0.02)),
            ),
            (
                Container("tray", (0.30, 0.08 + 0.01 * (seed % 3)), (0.12, 0.12), 0.02, GREEN),
                Container("box", (0.28, -0.12), (0.10, 0.10), 0.05, BLUE, slide=Slide("x", (0.0, 0.10))),
            ),
        )
        self.instruction = f"put the cube into the tray ({seed})"

    def chain_of_thought(self, table: Table) -> str:
        return "done" if self.success(table) else "cube"

    def progress(self, table: Table) -> float:
        return 1.0 if self.success(table) else 0.0

    def success(self, table: Table) -> bool:
        return "cube" in table.contents("tray")


class _SmallTask:
    """The only task of these tests."""

    name = "small"
    splits: tuple[str, ...] = ("train", "test")

    def reset(self, seed: int, split: str) -> Episode:
        return _SmallEpisode(seed)


class _OneBall(_SmallTask):
    """Another layout."""

    name = "one_ball"

    def reset(self, seed: int, split: str) -> Episode:
        episode = _SmallEpisode(seed)
        episode.scene = Scene(episode.scene.objects[1:])
        return episode


@pytest.fixture
def rig() -> RigConfig:
    return RigConfig(
        name="test",
        kind="twin",
        left=ArmConfig(base_position_m=(0.0, 0.30, 0.0)),
        right=ArmConfig(base_position_m=(0.0, -0.30, 0.0)),
        cameras=CamerasConfig(width=96, height=64),
    )


@pytest.fixture
def tasks() -> dict[str, Task]:
    return {"small": _SmallTask(), "one_ball": _OneBall()}
