"""A learner and the demonstrator in turn on the same arms: what is to be done from where a learner gets to.

Who only saw how it is done well does not know what to do after its own mistakes, which lead to where no demonstration
was. So a learner acts for a while, and the demonstrator then goes on from what has become of arms and table; what it
shows is learned, what the learner did is not (Ross et al. 2011, DAgger; with turns, as Kelly et al. 2019, HG-DAgger).
"""

import zlib
from collections.abc import Iterator

import numpy as np

from syvla.clock import to_ns
from syvla.message import Float64
from syvla.messages import ActionChunk, Intent, Observation, SimTruth, Task
from syvla.protocols import Expert, PartialThought, Planner
from syvla.sim.reference import ReferencePlanner

_FIRST_S = 0.3  # the demonstrator begins, so that it knows how everything was
LEARNER_S = (2.0, 10.0)  # from this to that, as likely
DEMONSTRATOR_S = (3.5, 6.0)  # a chunk and the intent's age are 2.5 s, in which nothing of the learner's may be
_TURNS = 6  # of the learner; the demonstrator then finishes


class TakeoverPlanner:
    """Thinks as the ``learner`` or as the ``demonstrator``, whose intents say which of them it was."""

    reads_truth = True

    def __init__(self, learner: Planner, demonstrator: ReferencePlanner) -> None:
        self.model_id = demonstrator.model_id
        self._learner, self._demonstrator = learner, demonstrator
        self._task_id: int | None = None
        self._rng = np.random.default_rng(0)
        self._turns, self._until_ns, self._learning = 0, 0, False

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        """Think as who has the turn at the observation; the turns depend on the task's words and the table alone."""
        if truth is None:
            return
        now_ns = observation.observation_ns
        if task.task_id != self._task_id:
            self._task_id = task.task_id
            self._rng = np.random.default_rng(zlib.crc32(task.instruction.encode() + truth.pose.tobytes()))
            self._turns, self._until_ns, self._learning = 0, now_ns + to_ns(_FIRST_S), False
        elif now_ns >= self._until_ns and (self._learning or self._turns < _TURNS):
            self._learning = not self._learning
            self._turns += self._learning
            self._until_ns = now_ns + to_ns(self._rng.uniform(*(LEARNER_S if self._learning else DEMONSTRATOR_S)))
            if not self._learning:
                self._demonstrator.take_over()
        if self._learning:
            yield from self._learner.think(observation, task, intent_id, None)
        else:
            yield from self._demonstrator.think(observation, task, intent_id, truth)


class TakeoverExpert:
    """Acts as the expert of whoever made the intent."""

    def __init__(self, learner: Expert, demonstrator: Expert, demonstrator_id: str) -> None:
        self._learner, self._demonstrator = learner, demonstrator
        self._demonstrator_id = demonstrator_id

    def act(
        self,
        intent: Intent,
        observation_ns: int,
        proprioception: Float64,
        committed: ActionChunk | None,
        chunk_id: int,
        inference_delay_steps: int,
    ) -> ActionChunk:
        """A chunk from the intent by its own expert."""
        expert = self._demonstrator if intent.model_id == self._demonstrator_id else self._learner
        return expert.act(intent, observation_ns, proprioception, committed, chunk_id, inference_delay_steps)
