"""The slow system of a checkpoint behind the runtime's protocol."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from syvla.clock import to_ns
from syvla.errors import ConfigError, MessageError
from syvla.message import Float16, UInt8
from syvla.messages import FEATURE_QUERIES, Intent, Observation, SimTruth, Task
from syvla.protocols import PartialThought
from syvla.topics import CAMERAS
from syvla_models.images import view_of
from syvla_models.planner import SyvlaPlanner
from syvla_models.prefix import GRIPPERS
from syvla_models.prompt import told
from syvla_models.qwen_config import load_config
from syvla_models.spec import PlannerSpec, load_spec
from syvla_models.threads import model_threads

PARTIAL_EVERY = 4  # growing texts from one partial thought that is sent to the next
CHANGE_BLOCK = 16  # pixels
CHANGE_LEVELS = 12.0  # of 255, on average over a block: well above what a camera's noise comes to there


class _Made(NamedTuple):
    """The thought that stands, and what it was made from."""

    task_id: int
    told: str
    observation_ns: int
    images: Sequence[UInt8]


class LearnedPlanner:
    """The slow system. When it thinks anew is ``think`` in the checkpoint's planner spec.

    ``always``: every time, so that text and states are always those of plain greedy decoding. The last thought is
    offered as a draft, which makes an unchanged thought as cheap as one pass.
    ``every_s``: a thought stands for ``think_every_s``; in between only the query states follow the images.
    ``on_change``: a thought stands until the pixels of a view change noticeably against those that it was made from
    (see :func:`changed`); until then only the query states follow the images.
    A new task is always thought about anew, and so are hands that open or close, where they are told.

    It thinks on an NVIDIA GPU where there is one, see :func:`where`.

    Args:
        folder: the checkpoint.
        threads: for torch; see :func:`model_threads`.
    """

    reads_truth = False
    remembered = ("_made", "_thought")

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        torch.set_num_threads(model_threads(threads))
        spec = load_spec(folder)
        self.model_id = spec.model_id
        self.spec: PlannerSpec = spec.planner
        self._planner = _load_planner(folder, spec.model_id)
        self._made: _Made | None = None

    @property
    def _thought(self) -> tuple[str, list[int]]:
        """The last one, of whoever shares the weights: what it was about, and its ids."""
        return self._planner.last

    @_thought.setter
    def _thought(self, last: tuple[str, list[int]]) -> None:
        self._planner.last = last

    def recalled(self) -> None:
        """The plain tuple of a memory has its names again."""
        self._made = self._made and _Made(*self._made)

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        """Yield the growing chain of thought, then the intent. It may be closed between two of them.

        ConfigError if a camera that the policy looks at is not among the observation's, MessageError if the states
        cannot be said in float16.
        """
        images, told = self._look(observation), self._told(observation, task)
        now = _Made(task.task_id, told, observation.observation_ns, images)
        thought = self._planner.refresh(images, told) if self._stands(now) else None
        if thought is None:
            # The weights may be shared with another run, whose last thought is not this one's.
            products = self._planner.think(images, told, reuse=self._made is not None)
            for count, product in enumerate(products, 1):
                if isinstance(product, tuple):
                    thought = product
                elif count % PARTIAL_EVERY == 0:
                    yield PartialThought(product)
            assert thought is not None  # noqa: S101 - think() ends with it
            self._made = now
        text, states = thought
        yield Intent(
            intent_id=intent_id,
            task_id=task.task_id,
            observation_ns=observation.observation_ns,
            chain_of_thought=text,
            feature_query_states=self._said(states, intent_id),
            model_id=self.model_id,
        )

    def _look(self, observation: Observation) -> list[UInt8]:
        frames = {frame.camera: frame for frame in observation.frames}
        missing = [view.camera for view in self.spec.views if view.camera not in frames]
        if missing:
            there = ", ".join(frames) or "none"
            raise ConfigError(f"the policy looks at camera {missing[0]!r}, the observation has {there}")
        return [view_of(frames[view.camera].rgb, view) for view in self.spec.views]

    def _told(self, observation: Observation, task: Task) -> str:
        left, right = observation.proprioception[GRIPPERS].tolist()
        return told(self.spec, task.instruction, (left, right))

    def _stands(self, now: _Made) -> bool:
        made, spec = self._made, self.spec
        if made is None or spec.think == "always" or (made.task_id, made.told) != (now.task_id, now.told):
            return False
        if spec.think == "every_s":
            return 0 <= now.observation_ns - made.observation_ns < to_ns(spec.think_every_s)
        return not any(changed(*pair) for pair in zip(made.images, now.images, strict=True))

    def _said(self, states: torch.Tensor, intent_id: int) -> Float16:
        """``states`` (n, D) as they travel."""
        expected = (FEATURE_QUERIES, self.spec.hidden_size)
        if tuple(states.shape) != expected:
            raise MessageError(f"the query states of intent {intent_id} must have shape {expected}, not {states.shape}")
        with np.errstate(over="ignore"):
            half = states.float().cpu().numpy().astype(np.float16)
        if not np.isfinite(half).all():
            raise MessageError(f"the query states of intent {intent_id} are not finite in float16")
        return half


def changed(before: UInt8, after: UInt8) -> bool:
    """Whether any block of 16x16 pixels differs by more than 12 levels on average; for images (H, W, 3)."""
    rows, columns = (size // CHANGE_BLOCK * CHANGE_BLOCK for size in before.shape[:2])
    difference = np.abs(after[:rows, :columns].astype(np.int16) - before[:rows, :columns])
    blocks = difference.reshape(rows // CHANGE_BLOCK, CHANGE_BLOCK, columns // CHANGE_BLOCK, CHANGE_BLOCK, 3)
    return bool((blocks.mean(axis=(1, 3, 4)) > CHANGE_LEVELS).any())


def where(folder: Path) -> tuple[torch.dtype, str]:
    """In which type and on which device the planner in ``folder`` thinks: on a GPU where there is one."""
    if not torch.cuda.is_available():
        return torch.float32, "cpu"  # few CPUs compute in another
    own = load_spec(folder).planner.gpu_dtype or load_config(folder).dtype
    own = getattr(torch, own) if isinstance(own, str) else own
    return own if isinstance(own, torch.dtype) else torch.float32, "cuda"


@functools.lru_cache(maxsize=1)
def _load_planner(folder: Path, model_id: str) -> SyvlaPlanner:
    """Weights are read once for each process and checkpoint; the first pass, which is slow, is run here."""
    planner = SyvlaPlanner.from_pretrained(folder, *where(folder))
    unknown = [view.camera for view in planner.spec.views if view.camera not in CAMERAS]
    if unknown:
        raise ConfigError(f"{folder} looks at camera {unknown[0]!r}; there are {', '.join(CAMERAS)}")
    black = [np.zeros((view.height, view.width, 3), np.uint8) for view in planner.spec.views]
    next(planner.think(black, "", reuse=False))
    return planner
