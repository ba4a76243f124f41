"""The planner stage: the slow system, free-running on the newest observation of the current task."""

import logging
from collections.abc import Iterator

from syvla.clock import to_ns
from syvla.config import PolicyConfig
from syvla.errors import MessageError
from syvla.messages import Intent, Observation, SimTruth, Task, Thought
from syvla.protocols import Emit, Inbox, OnNew, Planner
from syvla.stages.observer import Senses

_log = logging.getLogger(__name__)


class PlannerStage:
    """Lets ``planner`` think about the newest observation; sends its chain of thought as it grows, then the intent.

    Without a task, without fresh senses, or without the truth it needs, it does nothing. A newer task ends a thought
    that is under way, and so may a newer observation, but never two in a row. An intent that cannot be said (states
    that are not finite) is dropped and counted.

    Args:
        planner: the slow system.
        senses: where its observations come from.
        policy: ``planner_min_period_s`` is the shortest time from one step to the next, ``planner_preempt_after_s``
            how long a thought goes on in peace from newer observations; 0: to its end.
    """

    name = "planner"
    remembered: tuple[str, ...] = ("_next_id", "dropped")
    writes: tuple[str, ...] = ("thought", "intent")
    lossless = False

    def __init__(self, planner: Planner, senses: Senses, policy: PolicyConfig) -> None:
        self._planner = planner
        if hasattr(planner, "remembered"):
            self.remembered = (*self.remembered, "_planner")
        self._senses = senses
        truth = ("sim/truth",) if planner.reads_truth else ()
        self.reads: tuple[str, ...] = ("task", *senses.reads, *truth)
        patience_ns = to_ns(policy.planner_preempt_after_s)
        seen = tuple(name for name in senses.wakes if name != "task") if patience_ns else ()
        self.trigger = OnNew(senses.wakes, to_ns(policy.planner_min_period_s), ("task",), seen, patience_ns)
        self._next_id = 0
        self.dropped = 0

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        """Think once."""
        task = inbox.get("task")
        truth = inbox.get("sim/truth") if self._planner.reads_truth else None
        observation = self._senses.observation(now_ns, inbox)
        if not isinstance(task, Task) or not task.instruction.strip() or observation is None:
            return
        if self._planner.reads_truth and not isinstance(truth, SimTruth):
            return
        intent_id = self._next_id
        self._next_id += 1
        seen = truth if isinstance(truth, SimTruth) else None
        try:
            yield from self._think(observation, task, intent_id, seen)
        except MessageError as error:  # not an intent that anybody could use: the next one may be
            _log.warning("no intent %d: %s", intent_id, error)
            self.dropped += 1

    def _think(self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None) -> Iterator[Emit]:
        for product in self._planner.think(observation, task, intent_id, truth):
            if isinstance(product, Intent):
                if product.task_id != task.task_id:  # not what it was asked
                    return
                text = product.chain_of_thought
                yield Emit("thought", self._thought(task, intent_id, observation, text, complete=True))
                yield Emit("intent", product)
                return
            yield Emit("thought", self._thought(task, intent_id, observation, product.text, complete=False))

    @staticmethod
    def _thought(task: Task, intent_id: int, seen: Observation, text: str, *, complete: bool) -> Thought:
        return Thought(
            task_id=task.task_id,
            intent_id=intent_id,
            observation_ns=seen.observation_ns,
            text=text,
            complete=complete,
        )

    def request_stop(self) -> None:
        """Nothing to prepare."""

    @property
    def stopped(self) -> bool:
        """Always: no step is under way between steps."""
        return True

    def close(self) -> None:
        """Nothing to release."""
