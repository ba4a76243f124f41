"""Training samples, and the demonstrations that most of them are drawn from.

A sample is what one planner cycle would have seen and thought, and what an expert that acts on it a little later
should do. Drawing is a pure function of a random generator, so any sample of any step can be drawn again.
"""

import hashlib
import math
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from syvla.clock import NS_PER_S, to_ns
from syvla.errors import ConfigError, RecordingError
from syvla.message import Float32, Float64, UInt8
from syvla_models.images import view_of
from syvla_models.prefix import GRIPPERS
from syvla_models.spec import CameraView
from syvla_models.train.episode import Episode, Sight
from syvla_models.train.grounding import unknown
from syvla_models.train.kept import read_kept
from syvla_models.train.log import Say, silent
from syvla_models.train.wordings import Wordings

MAX_IMAGE_HZ = 7.5
GRASP_S = (0.3, 1.6)  # before a hand closes: it comes down, and chunks that begin after a sight of it show the closing
RETURN_S = 0.3  # from beside a demonstration back to it: soon enough for what is grasped next
CLOSING_M_S = 0.03  # a hand that is commanded to close closes faster
_SAY_EVERY_S = 10.0


class Actions(NamedTuple):
    """K action chunks for one intent, all raw: joints [rad], gripper widths [m], left arm first."""

    proprioception: Float64  # (K, 14) as measured at the chunk's observation
    age_s: Float64  # (K,) how much older the intent's observation is
    rows: Float64  # (K, H, 14) commanded set-points; past the end the last one stands
    prefix: npt.NDArray[np.int64]  # (K,) how many first rows are given clean


class Seen(NamedTuple):
    """A thing in one of the views: ``across`` and ``down`` are shares of the view's width and height."""

    name: str
    view: int
    across: float
    down: float
    x_m: float  # in the world
    y_m: float
    asked: bool | None = None  # whether it is what the question is about; None: not known
    sought: bool = False  # whether it is where the sample's grounding is
    said_at: tuple[int, ...] = ()  # after how many characters of the answer it has just been spoken of


class Sample(NamedTuple):
    """One row of a batch: a robot sample has ``actions``, a question has ``question`` and ``answer``."""

    source: str
    images: tuple[UInt8, ...]  # one for each view of the planner; none: words alone
    instruction: str = ""
    chain_of_thought: str | None = ""  # None: left out and not learned; "": it is learned that there is none
    question: str | None = None
    answer: str | None = None
    grounding: Float32 = unknown().values  # (8,), see ``grounding``
    grounding_known: npt.NDArray[np.bool_] = unknown().known  # (8,)
    actions: Actions | None = None
    widths_m: tuple[float, float] | None = None  # how far the left and the right hand are open; None: not known
    seen: tuple[Seen, ...] = ()  # what is known to be in the images, see ``learner.Learner.seen``


class Source(Protocol):
    """Where samples come from. What is drawn for validation is never drawn for training."""

    name: str

    def draw(self, rng: np.random.Generator, validation: bool) -> Sample:
        """One sample that depends on the state of ``rng`` alone."""
        ...

    def texts(self) -> Iterator[str]:
        """Every text that may appear in a sample, for a tokenizer."""
        ...


class Demonstrations:
    """Successful MCAP recordings in memory.

    Attributes:
        name: Of the source.
        train: The episodes for training.
        validation: The others.
        left_out: One line for each recording that is not used, with the reason.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        views: Sequence[CameraView],
        *,
        horizon: int = 50,
        period_s: float = 1 / 30,
        action_samples: int = 4,
        intent_uses: int = 1,
        imitable_only: bool = False,
        grasp_share: float = 0.0,
        delay_range_s: tuple[float, float] = (0.3, 1.0),
        max_prefix: int = 15,
        thought_probability: float = 1.0,
        validation_share: float = 0.05,
        max_image_hz: float = MAX_IMAGE_HZ,
        perturbation_rad: float = 0.0,
        reworded: float = 0.0,
        wordings: Wordings = MappingProxyType({}),
        say: Say = silent,
    ) -> None:
        """Read ``paths``; ConfigError if too few of them can be used, or one is to be reworded and has no wordings.

        Args:
            name: Of the source.
            paths: MCAP files.
            views: What the planner sees.
            horizon: H, rows of a chunk.
            period_s: Between two rows.
            action_samples: K, chunks drawn for each sight; 0 for sights and thoughts only.
            intent_uses: As many times K are drawn for training, see ``reuse``.
            imitable_only: Whether only sights are drawn that chunks can follow: of the others an expert alone learns
                nothing.
            grasp_share: How often a sight for training is one of ``GRASP_S`` before a hand closes instead of any. They
                are three in ten of all, and the only ones in which a centimetre matters.
            delay_range_s: How much older the intent's observation is than the chunk's, drawn evenly. (0, 0) is a
                synchronous loop.
            max_prefix: The prefix is drawn evenly from 0 to this.
            thought_probability: How often the chain of thought is part of a sample. At 0 the empty thought itself is
                learned; in between, a thought that is left out is not, so that silence is not learned from it.
            validation_share: Of the episodes, at least one.
            max_image_hz: How many sights a second are kept.
            perturbation_rad: Standard deviation by which each measured joint is put beside the demonstration, and by
                which the committed prefix then strays; the rows after it lead back. A policy that has strayed finds its
                way only if it has seen the like.
            reworded: How often a sample's instruction is one of its ``wordings`` instead.
            wordings: Of the instructions.
            say: Told how far reading is, and what is left out.
        """
        low_s, high_s = delay_range_s
        if not 0.0 <= low_s <= high_s:
            raise ConfigError(f"delay_range_s must be (low, high) with 0 <= low <= high, not {delay_range_s}")
        if not 0 <= max_prefix < horizon:
            raise ConfigError(f"max_prefix must be 0..{horizon - 1}, not {max_prefix}")
        shares = {"thought_probability": thought_probability, "reworded": reworded, "grasp_share": grasp_share}
        for share, value in shares.items():
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{share} must be 0..1, not {value}")
        self.name = name
        self._views = tuple(views)
        self._samples, self._uses = action_samples, intent_uses
        self._imitable_only = imitable_only
        self._grasp_share = grasp_share
        self._delay_ns = (to_ns(low_s), to_ns(high_s))
        self._max_prefix = max_prefix
        self._perturbation_rad = perturbation_rad
        self._reworded, self._wordings = reworded, wordings
        self._return = _returning(horizon, to_ns(period_s))
        self._thought_probability = thought_probability
        self._offsets_ns = np.arange(horizon, dtype=np.int64) * to_ns(period_s)
        episodes, self.left_out = self._read(paths, max_image_hz, say)
        told = {sight.instruction for episode in episodes for sight in episode.sights} if reworded else set()
        if unworded := sorted(told - set(wordings)):
            raise ConfigError(f"{name}: reworded: there are no wordings of {unworded[0]!r}")
        held_out = split([episode.name for episode in episodes], validation_share, name)
        self.train = tuple(e for e in episodes if e.name not in held_out)
        self.validation = tuple(e for e in episodes if e.name in held_out)
        self._ends = {False: _ends(self.train), True: _ends(self.validation)}
        before_grasps = ((e, sight) for e in self.train for sight in _grasping(e) if self._imitable(e, sight))
        self._grasping = list(before_grasps) if grasp_share else []

    def draw(self, rng: np.random.Generator, validation: bool) -> Sample:
        """A sight, every one as likely, and K chunks that begin a random delay after it."""
        episode, sight = self._sight(rng, validation)
        seen = episode.images(sight)
        chunks = self._samples if validation else self._samples * self._uses
        grounding = unknown() if sight.thought is None else sight.thought.grounding
        left, right = episode.proprioception(np.array(sight.observation_ns))[GRIPPERS].tolist()
        return Sample(
            source=self.name,
            images=tuple(view_of(seen[view.camera], view) for view in self._views),
            instruction=self._told(rng, sight),
            chain_of_thought=self._said(rng, sight),
            grounding=grounding.values,
            grounding_known=grounding.known,
            widths_m=(left, right),
            actions=self._actions(rng, episode, sight, chunks) if chunks and self._imitable(episode, sight) else None,
        )

    def draw_actions(self, rng: np.random.Generator) -> Actions:
        """The chunks of a random sight of the training episodes, without its images: for statistics."""
        drawn = self._sight(rng, False)
        while not self._imitable(*drawn):
            drawn = self._sight(rng, False)
        return self._actions(rng, *drawn, self._samples)

    def texts(self) -> Iterator[str]:
        """Every instruction, its wordings and every thought of the training episodes, once for each episode."""
        for episode in self.train:
            said = dict.fromkeys(sight.instruction for sight in episode.sights)
            said.update(dict.fromkeys(text for told in tuple(said) for text in self._wordings.get(told, ())))
            said.update(dict.fromkeys(sight.thought.text for sight in episode.sights if sight.thought is not None))
            yield from said

    # ------------------------------------------------------------ inside

    def _read(self, paths: Sequence[Path], max_image_hz: float, say: Say) -> tuple[list[Episode], tuple[str, ...]]:
        # Each process has an order of its own: of several that read the same, each finds what others have read already.
        order = random.Random(os.getpid()).sample(sorted(set(paths)), len(set(paths)))
        found: dict[Path, Episode | str] = {}
        said_s = time.monotonic()
        for path in order:
            found[path] = self._episode(path, max_image_hz)
            if time.monotonic() - said_s >= _SAY_EVERY_S:
                say(f"{self.name}: {len(found)} of {len(order)} recordings read")
                said_s = time.monotonic()
        read = [found[path] for path in sorted(found)]
        left_out = tuple(why for why in read if isinstance(why, str))
        if left_out:
            say("\n  ".join((f"{self.name}: {len(left_out)} of {len(order)} recordings left out:", *left_out)))
        return [episode for episode in read if isinstance(episode, Episode)], left_out

    def _episode(self, path: Path, max_image_hz: float) -> Episode | str:
        """The episode with those sights that an action can follow, or why it cannot be used."""
        cameras = tuple(dict.fromkeys(view.camera for view in self._views))
        try:
            episode = read_kept(path, cameras, max_image_hz=max_image_hz, thoughts=self._thought_probability > 0.0)
        except RecordingError as error:
            return str(error)
        sights = tuple(s for s in episode.sights if s.observation_ns + self._delay_ns[0] <= episode.end_ns)
        if not sights:
            return f"{path}: it ends before an action could follow an image"
        imitable = tuple(sight for sight in sights if self._imitable(episode, sight))
        if not imitable:
            return f"{path}: it shows nothing but mistakes"
        return episode._replace(sights=imitable if self._imitable_only else sights)

    def _sight(self, rng: np.random.Generator, validation: bool) -> tuple[Episode, Sight]:
        if self._grasping and not validation and rng.random() < self._grasp_share:
            return self._grasping[int(rng.integers(len(self._grasping)))]
        episodes, ends = self.validation if validation else self.train, self._ends[validation]
        pick = int(rng.integers(ends[-1]))
        index = int(np.searchsorted(ends, pick, "right"))
        return episodes[index], episodes[index].sights[pick - ends[index]]  # counted from the episode's end

    def _imitable(self, episode: Episode, sight: Sight) -> bool:
        """Whether no chunk that could be drawn for ``sight`` shows a mistake."""
        first_ns, last_ns = (sight.observation_ns + delay_ns for delay_ns in self._delay_ns)
        return episode.imitable(first_ns, last_ns + int(self._offsets_ns[-1]))

    def _told(self, rng: np.random.Generator, sight: Sight) -> str:
        if rng.random() >= self._reworded:
            return sight.instruction
        wordings = self._wordings[sight.instruction]
        return wordings[int(rng.integers(len(wordings)))]

    def _said(self, rng: np.random.Generator, sight: Sight) -> str | None:
        drawn = rng.random() < self._thought_probability  # drawn always, so that what follows is the same
        if self._thought_probability == 0.0:
            return ""
        return sight.thought.text if drawn and sight.thought is not None else None

    def _actions(self, rng: np.random.Generator, episode: Episode, sight: Sight, chunks: int) -> Actions:
        low, high = self._delay_ns
        high = min(high, episode.end_ns - sight.observation_ns)
        delays_ns = low + np.floor(rng.random(chunks) * (high - low + 1)).astype(np.int64)
        times_ns = sight.observation_ns + delays_ns
        prefix = rng.integers(self._max_prefix + 1, size=chunks)
        grown = np.sqrt(prefix / max(1, self._max_prefix))[:, None]
        beside, drift = self._perturbation(rng, chunks), self._perturbation(rng, chunks)
        rows = episode.commands.at(times_ns[:, None] + self._offsets_ns)
        return Actions(
            proprioception=episode.proprioception(times_ns) + beside,
            age_s=delays_ns / NS_PER_S,
            rows=rows + _astray(beside, beside + grown * drift, prefix, self._return),
            prefix=prefix,
        )

    def _perturbation(self, rng: np.random.Generator, chunks: int) -> Float64:
        """(chunks, 14): of the joints alone [rad]."""
        both = np.zeros((chunks, 2, 7))
        both[..., :6] = self._perturbation_rad * rng.standard_normal((chunks, 2, 6))
        return both.reshape(chunks, 14)


def split(keys: Iterable[str], share: float, name: str) -> frozenset[str]:
    """The keys for validation: ``share`` of them, at least one, at least one left over.

    They are those whose digests are lowest: the same in every stage, run and order of reading, and nearly the same
    when more are added.
    """
    ordered = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).digest())
    if len(ordered) < 2:
        raise ConfigError(f"{name}: training and validation need at least 2 to draw from, there are {ordered}")
    count = min(max(1, math.ceil(share * len(ordered))), len(ordered) - 1)
    return frozenset(ordered[:count])


def find(paths: Iterable[str], name: str) -> list[Path]:
    """The files that ``paths`` mean: files, patterns, and folders, in which it is every file called ``name``.

    ConfigError for a path that means no file.
    """
    found: list[Path] = []
    for text in paths:
        path = Path(text)
        matches = [path] if path.exists() else sorted(Path(path.anchor).glob(text[len(path.anchor) :]))
        files = [file for match in matches for file in (sorted(match.glob(name)) if match.is_dir() else [match])]
        if not files:
            raise ConfigError(f"{text}: no file, no folder with {name} in it, and no pattern that matches any")
        found += files
    return list(dict.fromkeys(found))


def _grasping(episode: Episode) -> Iterator[Sight]:
    """The sights of ``GRASP_S`` before a hand closes."""
    stamps_ns, widths_m = episode.commands.stamps_ns, episode.commands.values[:, GRIPPERS]
    speed_m_s = np.diff(widths_m, axis=0) / (np.diff(stamps_ns) / NS_PER_S)[:, None]
    closing_ns = stamps_ns[:-1][(speed_m_s < -CLOSING_M_S).any(axis=1)]
    soonest_ns, latest_ns = map(to_ns, GRASP_S)
    for sight in episode.sights:
        first = int(np.searchsorted(closing_ns, sight.observation_ns + soonest_ns))
        if first < len(closing_ns) and closing_ns[first] <= sight.observation_ns + latest_ns:
            yield sight


def _returning(horizon: int, period_ns: int) -> Float64:
    """How much of a perturbation is left in each row (H,): from 1 smoothly to 0 in ``RETURN_S``."""
    u = np.minimum(np.arange(horizon) * period_ns / (RETURN_S * NS_PER_S), 1.0)
    return np.asarray((1.0 - u) ** 2 * (1.0 + 2.0 * u))


def _astray(begin: Float64, end: Float64, prefix: npt.NDArray[np.int64], returning: Float64) -> Float64:
    """How far each row (K, H, 14) is beside the demonstration: ``begin`` (K, 14) at first, and nothing in the end.

    On its way it comes to ``end`` after the ``prefix`` (K,). A committed prefix that always led to where the
    demonstration went said that better than the intent did: an expert learned to go on from it, and so to repeat its
    own errors, 2.7 cm of a drift of 2.6.
    """
    rows = np.arange(len(returning))
    u = np.minimum(rows / np.maximum(prefix, 1)[:, None], 1.0)[..., None]
    way = begin[:, None] + u**2 * (3.0 - 2.0 * u) * (end - begin)[:, None]
    since = np.maximum(rows - prefix[:, None], 0)
    return np.where((rows < prefix[:, None])[..., None], way, returning[since][..., None] * end[:, None])


def _ends(episodes: Sequence[Episode]) -> npt.NDArray[np.int64]:
    return np.cumsum([len(episode.sights) for episode in episodes])
