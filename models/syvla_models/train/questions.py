"""Questions about pictures of the table: what keeps a planner's language and teaches it to see.

A source is one or more ``scenes.jsonl`` files. A line is one picture, its path relative to the file's folder::

    {"image": "000/000123.jpg", "camera": "cam_high", "questions": [
        {"question": "What is left of the red box?", "answer": "The green can.", "point": [0.31, 0.12]}]}

``point`` is where the thing spoken of is: x, y [m] in the world, or null. ``named`` are
the places of what an order names, ``things`` what the picture shows, ``widths_m`` (of the picture, may be left out)
how far the left and the right hand are open.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from syvla.errors import ConfigError, RecordingError
from syvla.message import UInt8
from syvla.messages import MAX_TEXT
from syvla_models.images import view_of
from syvla_models.spec import CameraView
from syvla_models.train.episode import unpack
from syvla_models.train.grounding import of_point, unknown
from syvla_models.train.samples import Sample, Seen, split

SCENES_FILE = "scenes.jsonl"


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing to ask about a picture, and the answer."""

    question: str
    answer: str
    point: tuple[float, float] | None = None
    kind: str = ""  # what sort of question it is, for counting
    named: tuple[tuple[float, float], ...] = ()  # where the things are that an order names


class Thing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing in a picture."""

    name: str
    point: tuple[float, float]  # in the world [m]
    place: tuple[float, float]  # shares of the picture's width and height
    where: str = ""  # on which side it is or what it is in, in words that follow its name

    @property
    def label(self) -> str:
        """What it is and where: a can in a tray looks like a can and means something else."""
        return f"{self.name} {self.where}".rstrip()


class Scene(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the file."""

    image: str
    camera: str
    questions: tuple[Question, ...]
    things: tuple[Thing, ...] = ()
    widths_m: tuple[float, float] | None = None


SAME_M = 0.002  # two places nearer than this are one, but for how they are rounded
_IS = " is"
SILENT = 0.5  # share of the questions about a place that are not answered in words


class Questions:
    """Pictures with questions; the pictures stay on disk.

    Attributes:
        name: Of the source.
        train: The pictures for training, each with its path.
        validation: The others.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        views: Sequence[CameraView],
        *,
        thoughts: bool = True,
        validation_share: float = 0.05,
    ) -> None:
        """Read ``files``; ConfigError, naming file and line, for one that is malformed.

        Without ``thoughts`` an order is answered with the empty thought, which is learned.

        The planner sees a picture through the views of its camera, and black in the others. Pictures of a camera that
        it does not look through are passed over.
        """
        self.name = name
        self._views = tuple(views)
        self._thoughts = thoughts
        cameras = {view.camera for view in views}
        scenes = [pair for file in files for pair in read_scenes(file) if pair[1].camera in cameras]
        held_out = split([scene.image for _, scene in scenes], validation_share, name)
        self.train = tuple((path, scene) for path, scene in scenes if scene.image not in held_out)
        self.validation = tuple((path, scene) for path, scene in scenes if scene.image in held_out)

    def draw(self, rng: np.random.Generator, validation: bool) -> Sample:
        """A picture, every one as likely, and one of its questions.

        One that says where the thing is goes without its answer half of the time: the feature queries shall find the
        place in the picture, not in the words before them. An order never does: what comes next needs its thought.
        """
        scenes = self.validation if validation else self.train
        path, scene = scenes[int(rng.integers(len(scenes)))]
        asked = scene.questions[int(rng.integers(len(scene.questions)))]
        grounding = unknown() if asked.point is None else of_point(*asked.point)
        order = bool(asked.named)
        silent = asked.point is not None and not order and rng.random() < SILENT
        thoughtless = order and not self._thoughts
        spoken = not (silent or thoughtless)
        return Sample(
            source=self.name,
            images=images_of(path, scene, self._views),
            instruction="" if spoken else asked.question,
            chain_of_thought="" if thoughtless else None,
            question=asked.question if spoken else None,
            answer=asked.answer if spoken else None,
            grounding=grounding.values,
            grounding_known=grounding.known,
            widths_m=scene.widths_m,
            seen=tuple(
                seen
                for index, view in enumerate(self._views)
                if view.camera == scene.camera
                for thing in scene.things
                if (seen := _seen(thing, scene.things, index, view, asked)) is not None
            ),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What things are called, with what they may be in, sorted."""
        return tuple(sorted({thing.label for _, scene in (*self.train, *self.validation) for thing in scene.things}))

    def texts(self) -> Iterator[str]:
        """Every question and answer of the training pictures."""
        for _, scene in self.train:
            for asked in scene.questions:
                yield asked.question
                yield asked.answer


def _seen(thing: Thing, things: Sequence[Thing], index: int, view: CameraView, asked: Question) -> Seen | None:
    """Where ``thing``, one of ``things``, is in a view, and what ``asked`` is to it; None outside of the view."""
    top, left, bottom, right = view.crop
    across, down = (thing.place[0] - left) / (right - left), (thing.place[1] - top) / (bottom - top)
    if not (0.0 <= across < 1.0 and 0.0 <= down < 1.0):
        return None
    points = asked.named or (() if asked.point is None else (asked.point,))
    about = any(math.dist(thing.point, point) < SAME_M for point in points) if points else None
    sought = asked.point is not None and math.dist(thing.point, asked.point) < SAME_M
    said_at = _spoken_of(thing, sought, things, asked.answer)
    return Seen(thing.label, index, across, down, *thing.point, about, sought, said_at)


def _spoken_of(thing: Thing, sought: bool, things: Sequence[Thing], answer: str) -> tuple[int, ...]:
    """Where in ``answer`` words have just named the thing, and where they are about to say what it is in.

    Of several with one name the words mean the one that is sought, and the answer ends on it.
    """
    alike = sum(other.name == thing.name for other in things) > 1
    if alike and not sought:
        return ()
    ends = [found.end() for found in re.finditer(rf"\b{re.escape(thing.name)}\b", answer)]
    if alike:
        ends.append(len(answer.rstrip(".")))
    return tuple(sorted({*ends, *(end + len(_IS) for end in ends if answer.startswith(_IS, end))}))


def images_of(path: Path, scene: Scene, views: Sequence[CameraView]) -> tuple[UInt8, ...]:
    """What a planner with these ``views`` sees of a scene: black where it is another camera's."""
    try:
        rgb = unpack(path.read_bytes())
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
    return tuple(view_of(rgb, view) if view.camera == scene.camera else _black(view) for view in views)


def _black(view: CameraView) -> UInt8:
    return np.zeros((view.height, view.width, 3), np.uint8)


def read_scenes(file: Path) -> Iterator[tuple[Path, Scene]]:
    """The pictures of a file, each with its path; ConfigError, naming file and line, for one that is malformed."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    decoder = msgspec.json.Decoder(Scene)
    for number, line in enumerate(lines, 1):
        try:
            scene = decoder.decode(line)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ConfigError(f"{file}, line {number}: {error}") from error
        if not scene.image:
            raise ConfigError(f"{file}, line {number}: image must not be empty")
        if not scene.questions:
            raise ConfigError(f"{file}, line {number}: questions must have at least one question")
        for asked in scene.questions:
            if not asked.question or not 0 < len(asked.answer) <= MAX_TEXT:
                raise ConfigError(f"{file}, line {number}: a question and its answer must not be empty")
        yield file.parent / scene.image, scene
