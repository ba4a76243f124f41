"""The learned policy behind the runtime's protocols: a planner and an expert, each made from a checkpoint folder."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from syvla.clock import NS_PER_S, to_ns
from syvla.config import RigConfig
from syvla.errors import ConfigError, MessageError
from syvla.message import Float16, Float32, Float64, UInt8
from syvla.messages import FEATURE_QUERIES, ActionChunk, Intent, Observation, SimTruth, Task
from syvla.protocols import PartialThought
from syvla.topics import CAMERAS
from syvla_models.actions import action_space, anchor_poses
from syvla_models.checkpoint import load_expert, load_spec
from syvla_models.expert import Expert, IntentCache
from syvla_models.flow import sample
from syvla_models.images import view_of
from syvla_models.planner import SyvlaPlanner
from syvla_models.prefix import GRIPPERS, JOINTS, prefix_rows
from syvla_models.prompt import told
from syvla_models.spec import ActionSpec, PlannerSpec

PARTIAL_EVERY = 4  # growing texts from one partial thought that is sent to the next
FEW_CORES = 4
CHANGE_BLOCK = 16  # pixels
CHANGE_LEVELS = 12.0  # of 255, on average over a block: well above what a camera's noise comes to there


def use_threads(count: int | None) -> None:
    """Give torch ``count`` threads; by default one where few cores are shared with the rest of the loop, else half."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(count or (1 if cores <= FEW_CORES else cores // 2))


# ---------------------------------------------------------------- the slow system


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

    Args:
        folder: the checkpoint.
        threads: for torch; see :func:`use_threads`.
    """

    reads_truth = False

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        use_threads(threads)
        spec = load_spec(folder)
        self.model_id = spec.model_id
        self.spec: PlannerSpec = spec.planner
        self._planner = _load_planner(folder, spec.model_id)
        self._made: _Made | None = None

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


@functools.lru_cache(maxsize=1)
def _load_planner(folder: Path, model_id: str) -> SyvlaPlanner:
    """Weights are read once for each process and checkpoint; the first pass, which is slow, is run here."""
    planner = SyvlaPlanner.from_pretrained(folder)
    unknown = [view.camera for view in planner.spec.views if view.camera not in CAMERAS]
    if unknown:
        raise ConfigError(f"{folder} looks at camera {unknown[0]!r}; there are {', '.join(CAMERAS)}")
    black = [np.zeros((view.height, view.width, 3), np.uint8) for view in planner.spec.views]
    next(planner.think(black, "", reuse=False))
    return planner


# ---------------------------------------------------------------- the fast system


class LearnedExpert:
    """The fast system: chunks by flow matching, conditioned on the intent, on proprioception and on its own prefix.

    What depends only on the intent is computed once for each. The noise is drawn once for each task, from Philox with
    the task's id as its key, so that successive chunks agree about what is undecided and a replay is exact. What it
    decides stands for the whole task, also where nothing is undecided: a hand that comes down on the same side of
    everything. The checkpoint's ``noise_scale`` makes that less.

    Args:
        folder: the checkpoint; only ``syvla.json`` and the expert's weights are read.
        rig: the limits within which the joints are.
        threads: for torch; see :func:`use_threads`.
    """

    def __init__(self, folder: Path, rig: RigConfig, threads: int | None = None) -> None:
        use_threads(threads)
        spec = load_spec(folder)
        self.model_id = spec.model_id
        self._expert = _load_expert(folder, spec.model_id)
        self._action: ActionSpec = spec.action
        self._horizon = spec.expert.horizon
        self._slots = spec.expert.slots
        self._width = spec.expert.intent_width
        self._period_ns = to_ns(spec.action.period_s)
        self._space = action_space(spec.action, rig.safety)
        self._live = torch.from_numpy(self._space.live)
        self._intent: Intent | None = None
        self._cache: IntentCache
        self._noise: tuple[int, torch.Tensor] | None = None

    @torch.inference_mode()
    def act(
        self,
        intent: Intent,
        observation_ns: int,
        proprioception: Float64,
        committed: ActionChunk | None,
        chunk_id: int,
        inference_delay_steps: int,
    ) -> ActionChunk:
        """Denoise one chunk. MessageError if the intent is another model's."""
        self._condition(intent)
        state = torch.from_numpy(self._space.state(proprioception))[None]
        age_s = (observation_ns - intent.observation_ns) / NS_PER_S
        count = self._committed_rows(observation_ns, inference_delay_steps)
        given = prefix_rows(committed, observation_ns, self._period_ns, count, proprioception)
        clean = None
        if len(given):
            filled = np.concatenate((given, np.repeat(given[-1:], self._horizon - len(given), axis=0)))
            clean = torch.from_numpy(self._space.encode(filled, proprioception))[None]
        x = sample(
            self._expert,
            self._cache,
            state,
            torch.tensor([age_s], dtype=torch.float32),
            self._noise_of(intent.task_id),
            clean,
            None if clean is None else torch.tensor([len(given)]),
            self._action.euler_steps,
            self._live,
        )
        rows = self._space.decode(x[0].numpy(), proprioception, given[0] if len(given) else None)
        return ActionChunk(
            chunk_id=chunk_id,
            task_id=intent.task_id,
            intent_id=intent.intent_id,
            intent_observation_ns=intent.observation_ns,
            observation_ns=observation_ns,
            period_ns=self._period_ns,
            position_rad=rows[:, JOINTS].astype(np.float32),
            gripper_width_m=rows[:, GRIPPERS].astype(np.float32),
            inference_delay_steps=inference_delay_steps,
            anchor_pose=anchor_poses(proprioception) if self._action.space == "end_effector" else None,
        )

    def _committed_rows(self, observation_ns: int, inference_delay_steps: int) -> int:
        """How many rows from ``observation_ns`` on stay as they were decided.

        Those that are due before this chunk arrives, and those up to the end of an execution horizon: they end at its
        multiples on the clock, so that each is executed as one chunk decided it, whatever the rate of the chunks. A
        chunk that may change everything after every 50 ms is a new decision each time, and their errors add up.
        """
        # Whole rows are counted as past, so the row after them too is due before this chunk arrives.
        count = inference_delay_steps + 1
        horizon_ns = to_ns(self._action.execution_horizon_s)
        if horizon_ns:
            arrival_ns = observation_ns + count * self._period_ns
            count += -arrival_ns % horizon_ns // self._period_ns
        return min(count, self._action.max_prefix)

    def _condition(self, intent: Intent) -> None:
        """Compute what depends only on ``intent``, unless it is the one of before."""
        if intent is self._intent:  # the same message: its id alone comes again when a planner restarts
            return
        if intent.model_id != self.model_id:
            raise MessageError(f"the intent is of model {intent.model_id!r}, this expert is of {self.model_id!r}")
        states = intent.feature_query_states
        if states.shape[1] != self._width:
            raise MessageError(f"feature_query_states must be {self._width} wide, not {states.shape[1]}")
        self._cache = self._expert.condition(torch.from_numpy(states.astype(np.float32))[None])
        self._intent = intent

    def _noise_of(self, task_id: int) -> torch.Tensor:
        """(1, H, slots) float32."""
        if self._noise is None or self._noise[0] != task_id:
            noise = torch.from_numpy(task_noise(task_id, self._horizon, self._slots))[None]
            self._noise = task_id, self._action.noise_scale * noise
        return self._noise[1]


def task_noise(task_id: int, rows: int, slots: int) -> Float32:
    """Standard normal noise (rows, slots) of one task; the same on every machine."""
    return np.random.Generator(np.random.Philox(key=task_id % 2**64)).standard_normal((rows, slots), dtype=np.float32)


@functools.lru_cache(maxsize=1)
def _load_expert(folder: Path, model_id: str) -> Expert:
    """As :func:`_load_planner`."""
    expert, _ = load_expert(folder)
    return expert
