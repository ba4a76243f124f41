"""The expert stage: the fast system, from the newest intent and proprioception to the next action chunk."""

import logging
from collections import deque
from collections.abc import Sequence
from math import ceil

from syvla.clock import to_ns
from syvla.config import IntentPolicy, PolicyConfig
from syvla.control.observation import proprioception
from syvla.errors import MessageError
from syvla.messages import ActionChunk, ArmState, Intent, JointCommand, Source, Splice, Task
from syvla.protocols import Emit, Expert, Inbox, OnNew, Received
from syvla.topics import topic

_log = logging.getLogger(__name__)

DELAY_WINDOW = 32  # splices from which the inference delay is estimated
DELAY_QUANTILE = 0.9
REMEMBERED_CHUNKS = 16
ANSWER_NS = 10_000_000  # two ticks: by then a command says whether the last chunk, from which one goes on, is executed


class InferenceDelay:
    """Whole rows that pass between an observation and the splice of its chunk: a high quantile of recent ones.

    A splice that replaced nothing is left out: nothing was being executed meanwhile, and the first inference
    after a start is slow for reasons that do not return.
    """

    remembered = ("_steps",)

    def __init__(self, initial_steps: int) -> None:
        self._initial_steps = initial_steps
        self._steps: deque[int] = deque(maxlen=DELAY_WINDOW)

    def add(self, splice: Splice) -> None:
        """Count one splice."""
        if splice.replaced_chunk_id >= 0:
            self._steps.append(splice.inference_delay_steps)

    @property
    def steps(self) -> int:
        """The estimate."""
        if not self._steps:
            return self._initial_steps
        return sorted(self._steps)[ceil(DELAY_QUANTILE * len(self._steps)) - 1]


class ExpertStage:
    """Lets ``expert`` act whenever an arm has new feedback, at most every ``expert_min_period_s``, and on a new intent.

    It does nothing without an intent, with one of another task than the current, or with one too old to be
    executed: past its time to live where that holds the arms, past ``slow_down_hold_after_s`` times that where it
    slows them down, never where age is ignored. Intents seen before, of a past session of the planner, or made
    from an older observation than the one in use, and those that the expert refuses, are dropped and counted.

    Args:
        expert: the fast system.
        intent: the rig's policy about the age of an intent.
        policy: ``expert_min_period_s``, for which no new intent waits, and the latency from which the inference delay
            is first estimated.
    """

    name = "expert"
    remembered: tuple[str, ...] = (
        "_intent",
        "_refused",
        "_epoch",
        "_past_epochs",
        "_sent",
        "_next_id",
        "delay",
        "dropped",
    )
    reads: tuple[str, ...] = ("intent", "task", "arm/left", "arm/right", "splice", "command")
    writes: tuple[str, ...] = ("chunk",)
    lossless = False

    def __init__(self, expert: Expert, intent: IntentPolicy, policy: PolicyConfig) -> None:
        self._expert = expert
        if hasattr(expert, "remembered"):
            self.remembered = (*self.remembered, "_expert")
        period_ns = to_ns(policy.expert_min_period_s)
        self.trigger = OnNew(("arm/left", "intent"), period_ns, at_once=("intent",), rest_ns=ANSWER_NS)
        ages_s = {
            "use": float("inf"),
            "slow_down": intent.time_to_live_s * intent.slow_down_hold_after_s,
            "hold": intent.time_to_live_s,
        }
        self._max_age_s = ages_s[intent.stale_policy]
        self._arm_stale_ns = to_ns(topic("arm/left").stale_after_s or 0.0)
        self._intent: Intent | None = None
        self._refused: Intent | None = None
        self._epoch: int | None = None
        self._past_epochs: set[int] = set()
        self._sent: dict[int, ActionChunk] = {}
        self._next_id = 0
        self.delay = InferenceDelay(int(policy.expert_latency_s / policy.period_s))
        self.dropped = 0

    def step(self, now_ns: int, inbox: Inbox) -> Sequence[Emit]:
        """Act once."""
        for received in inbox.fresh:
            if isinstance(received.message, Splice):
                self.delay.add(received.message)
            elif isinstance(received.message, Intent):
                self._take(received, received.message)
        intent, task = self._intent, inbox.get("task")
        left, right = inbox.get("arm/left"), inbox.get("arm/right")
        if (
            intent is None
            or intent is self._refused
            or not isinstance(left, ArmState)
            or not isinstance(right, ArmState)
        ):
            return ()
        if isinstance(task, Task) and task.task_id != intent.task_id:
            return ()
        if now_ns - intent.observation_ns > self._max_age_s * 1e9:
            return ()
        observation_ns = min(left.measured_ns, right.measured_ns)
        if now_ns - observation_ns > self._arm_stale_ns:
            return ()
        chunk_id = self._next_id
        self._next_id += 1
        senses = proprioception(left, right, observation_ns)
        try:
            chunk = self._expert.act(intent, observation_ns, senses, self._committed(inbox), chunk_id, self.delay.steps)
        except MessageError as error:  # not an intent for this expert: the next one may be
            _log.warning("intent %d of %s refused: %s", intent.intent_id, intent.model_id, error)
            self._refused = intent
            self.dropped += 1
            return ()
        self._sent[chunk_id] = chunk
        self._sent.pop(chunk_id - REMEMBERED_CHUNKS, None)
        return (Emit("chunk", chunk),)

    def _take(self, received: Received, intent: Intent) -> None:
        epoch = received.header.epoch
        known = self._intent
        if known is not None and (
            epoch in self._past_epochs
            or intent.observation_ns < known.observation_ns
            or (epoch == self._epoch and intent.intent_id <= known.intent_id)
        ):
            self.dropped += 1
            return
        if self._epoch is not None and epoch != self._epoch:
            self._past_epochs.add(self._epoch)
        self._epoch, self._intent = epoch, intent

    def _committed(self, inbox: Inbox) -> ActionChunk | None:
        """The chunk that the robot executes at present, as its newest command says; None while nothing runs."""
        command = inbox.get("command")
        if not isinstance(command, JointCommand) or command.provenance.source is not Source.POLICY:
            return None
        return self._sent.get(command.provenance.chunk_id)

    def request_stop(self) -> None:
        """Nothing to prepare."""

    @property
    def stopped(self) -> bool:
        """Always: no step is under way between steps."""
        return True

    def close(self) -> None:
        """Nothing to release."""
