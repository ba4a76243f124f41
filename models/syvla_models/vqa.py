"""How often a planner's own words answer a question about a picture, by kind of question: its language, in numbers."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from syvla.errors import ConfigError
from syvla.proportion import wilson
from syvla_models.planner import SyvlaPlanner
from syvla_models.prompt import told
from syvla_models.train.questions import SCENES_FILE, Question, Scene, images_of, read_scenes

_EVERY = 20  # questions between two lines of progress
ALL = "all"


class Accuracy(NamedTuple):
    """Right answers, word for word, to the questions of one kind, with the 95 % Wilson interval."""

    kind: str
    right: int
    asked: int
    low: float
    high: float


def accuracy(checkpoint: Path, scenes: Path, count: int, say: Callable[[str], None]) -> list[Accuracy]:
    """Ask the planner in ``checkpoint`` the first ``count`` questions of the folder ``scenes``; the last row is all.

    ConfigError if there is no picture that the planner can see, or a file is malformed.
    """
    planner = SyvlaPlanner.from_pretrained(checkpoint)
    views = planner.spec.views
    cameras = {view.camera for view in views}
    asked, right = Counter[str](), Counter[str]()
    for path, scene, question in _questions(scenes / SCENES_FILE, cameras):
        if asked[ALL] == count:
            break
        images = images_of(path, scene, views)
        *_, made = planner.think(images, told(planner.spec, question.question, scene.widths_m), reuse=False)
        for kind in (question.kind, ALL):
            asked[kind] += 1
            right[kind] += made[0] == question.answer
        if asked[ALL] % _EVERY == 0:
            say(f"[{asked[ALL]}/{count}] {right[ALL] / asked[ALL]:.1%} right")
    if not asked:
        raise ConfigError(f"{scenes}: no picture of {', '.join(sorted(cameras))}, which is what the planner sees")
    kinds = [*sorted(kind for kind in asked if kind != ALL), ALL]
    return [Accuracy(kind, right[kind], asked[kind], *wilson(right[kind], asked[kind])) for kind in kinds]


def _questions(file: Path, cameras: set[str]) -> Iterator[tuple[Path, Scene, Question]]:
    for path, scene in read_scenes(file):
        if scene.camera in cameras:
            for question in scene.questions:
                yield path, scene, question


def table(found: list[Accuracy]) -> str:
    """One line for each kind."""
    return "\n".join(
        f"{row.kind:10s} {row.right / row.asked:6.1%} of {row.asked:4d}, 95 % between {row.low:.1%} and {row.high:.1%}"
        for row in found
    )
