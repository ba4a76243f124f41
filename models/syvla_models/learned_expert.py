"""The fast system of a checkpoint behind the runtime's protocol. Knows no torch: a backend computes."""

from pathlib import Path

import numpy as np

from syvla.clock import NS_PER_S, to_ns
from syvla.config import Continuity, RigConfig
from syvla.errors import MessageError
from syvla.message import Float32, Float64
from syvla.messages import ActionChunk, Intent
from syvla_models.actions import action_space, anchor_poses
from syvla_models.backends.choice import open_backend
from syvla_models.backends.protocol import ChunkInputs, Conditioned, ExpertBackend
from syvla_models.continuity import Asked, joining
from syvla_models.prefix import GRIPPERS, JOINTS, prefix_rows
from syvla_models.spec import ActionSpec, load_spec
from syvla_models.threads import model_threads


class LearnedExpert:
    """The fast system: chunks by flow matching, conditioned on the intent, on proprioception and on its own prefix.

    What depends only on the intent is computed once for each. The noise is drawn once for each task, from Philox with
    the task's id as its key, so that successive chunks agree about what is undecided and a replay is exact. What it
    decides stands for the whole task, also where nothing is undecided: a hand that comes down on the same side of
    everything. The checkpoint's ``noise_scale`` makes that less.

    Args:
        folder: the checkpoint; only ``syvla.json`` and the expert's weights are read.
        rig: the limits within which the joints are.
        threads: for the backend; see :func:`model_threads`.
        backend: what computes the chunks, or its name: one of ``backends.choice.BACKENDS``, or ``auto``.
        continuity: how a chunk goes on from the one being executed, see :mod:`syvla_models.continuity`.
    """

    remembered: tuple[str, ...] = ("_intent", "_surprised_ns")  # the rest follows from them

    def __init__(
        self,
        folder: Path,
        rig: RigConfig,
        threads: int | None = None,
        backend: str | ExpertBackend = "auto",
        continuity: Continuity = "prefix",
    ) -> None:
        spec = load_spec(folder)
        self.model_id = spec.model_id
        if isinstance(backend, str):
            backend = open_backend(folder, backend, model_threads(threads))
        self.backend: ExpertBackend = backend
        self._action: ActionSpec = spec.action
        self._horizon = spec.expert.horizon
        self._slots = spec.expert.slots
        self._width = spec.expert.intent_width
        self._period_ns = to_ns(spec.action.period_s)
        self._space = action_space(spec.action, rig.safety)
        self._joining = joining(continuity, backend, self._space, spec.action.max_prefix)
        if hasattr(self._joining, "remembered"):
            self.remembered = (*self.remembered, "_joining")
        self._intent: Intent | None = None
        self._conditioned: tuple[Intent, Conditioned] | None = None
        self._noise: tuple[int, Float32] | None = None
        self._surprised_ns = -1  # when what the newest surprising intent was made from was seen

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
        conditioned = self._condition(intent)
        age_s = (observation_ns - intent.observation_ns) / NS_PER_S
        count = self._committed_rows(observation_ns, inference_delay_steps, committed)
        nothing = np.zeros((self._horizon, self._slots), np.float32)
        asked = Asked(
            conditioned,
            ChunkInputs(self._space.state(proprioception), age_s, self._noise_of(intent.task_id), nothing, 0),
            proprioception,
            observation_ns,
            self._period_ns,
            intent.task_id,
            committed is not None,
            prefix_rows(committed, observation_ns, self._period_ns, self._horizon, proprioception),
            count,
        )
        rows = self._joining.rows(asked)
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

    def _committed_rows(self, observation_ns: int, inference_delay_steps: int, committed: ActionChunk | None) -> int:
        """How many rows from ``observation_ns`` on stay as they were decided.

        Those that are due before this chunk arrives, and those up to the end of an execution horizon: they end at its
        multiples on the clock, so that each is executed as one chunk decided it, whatever the rate of the chunks. A
        chunk that may change everything after every 50 ms is a new decision each time, and their errors add up. But
        what was decided before something moved all of a sudden does not stand any longer than it must.
        """
        # Whole rows are counted as past, so the row after them too is due before this chunk arrives.
        count = inference_delay_steps + 1
        horizon_ns = to_ns(self._action.execution_horizon_s)
        if horizon_ns and not self._is_outdated(committed):
            arrival_ns = observation_ns + count * self._period_ns
            count += -arrival_ns % horizon_ns // self._period_ns
        return count

    def _is_outdated(self, committed: ActionChunk | None) -> bool:
        """Whether ``committed`` was decided before the newest surprise."""
        return committed is not None and committed.intent_observation_ns < self._surprised_ns

    def _condition(self, intent: Intent) -> Conditioned:
        """What depends only on ``intent``, computed unless it is the one of before."""
        # the same message: its id alone comes again when a planner restarts
        if self._conditioned is not None and intent is self._conditioned[0]:
            return self._conditioned[1]
        if intent.model_id != self.model_id:
            raise MessageError(f"the intent is of model {intent.model_id!r}, this expert is of {self.model_id!r}")
        states = intent.feature_query_states
        if states.shape[1] != self._width:
            raise MessageError(f"feature_query_states must be {self._width} wide, not {states.shape[1]}")
        self._conditioned = intent, self.backend.condition(states.astype(np.float32))
        if self._intent is not None and relative_change(self._intent, intent) > self._action.surprise_threshold:
            self._surprised_ns = intent.observation_ns
        self._intent = intent
        return self._conditioned[1]

    def _noise_of(self, task_id: int) -> Float32:
        """(H, slots)."""
        if self._noise is None or self._noise[0] != task_id:
            noise = task_noise(task_id, self._horizon, self._slots)
            self._noise = task_id, np.float32(self._action.noise_scale) * noise
        return self._noise[1]


def relative_change(before: Intent, intent: Intent) -> float:
    """Of the query states, as a share of the norm of the earlier ones; 0 between tasks, which nothing is kept over."""
    if before.task_id != intent.task_id:
        return 0.0
    old, new = (each.feature_query_states.astype(np.float32) for each in (before, intent))
    return float(np.linalg.norm(new - old) / max(np.linalg.norm(old), np.finfo(np.float32).tiny))


def task_noise(task_id: int, rows: int, slots: int) -> Float32:
    """Standard normal noise (rows, slots) of one task; the same on every machine."""
    return np.random.Generator(np.random.Philox(key=task_id % 2**64)).standard_normal((rows, slots), dtype=np.float32)
