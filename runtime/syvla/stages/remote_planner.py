"""The planner's place on the robot's machine when the planner is on another: what it sees goes up, answers come down.

For everybody else on this machine it is the planner. It judges here, by the clock that stamped them, what is fresh
enough to be thought about, and it passes on only answers to what it asked.
"""

import logging
from collections.abc import Iterator

import msgspec

from syvla.clock import to_ns
from syvla.config import PolicyConfig
from syvla.messages import Intent, Observation, Task, Thought
from syvla.protocols import Emit, Inbox, OnNew, Received
from syvla.stages.observer import Observer, packed

REMEMBERED = 512  # observations; more than are sent within any time to live
_log = logging.getLogger(__name__)

LEAST_PERIOD_S = 0.05  # each observation costs the robot 14 ms of a core, and a planner far away is rarely that quick


class RemotePlannerStage:
    """Sends observations of the current task, and passes on the thoughts and intents that they lead to.

    An answer must name an observation that was sent, and the task that it was sent for; anything else, such as one
    meant for another robot, is dropped and counted. Depth does not go up: no planner looks at it.

    Args:
        observer: makes the observations.
        policy: ``planner_min_period_s`` is the shortest time from one observation to the next, but for
            ``LEAST_PERIOD_S``.
        jpeg_quality: of the images, 1 to 95; 0 sends them raw.
        truth: whether the simulator's truth goes up too, for a planner that reads it.
    """

    name = "planner"
    lossless = False

    def __init__(self, observer: Observer, policy: PolicyConfig, jpeg_quality: int, *, truth: bool = False) -> None:
        self._observer = observer
        self._period_ns = to_ns(max(policy.planner_min_period_s, LEAST_PERIOD_S))
        self._quality = jpeg_quality
        self._passed_up = ("task", "sim/truth") if truth else ("task",)
        self.reads: tuple[str, ...] = (*self._passed_up, *observer.reads, "thought", "intent")
        self.writes: tuple[str, ...] = ("thought", "intent")
        self.trigger = OnNew((*observer.wakes, "thought", "intent"))
        self._asked: dict[int, int] = {}  # the task of each observation that was sent
        self._next_ns = 0
        self.dropped = 0

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        """Pass on what came down, then send up what is new."""
        fresh = {received.header.topic: received for received in inbox.fresh}
        for name in ("thought", "intent"):
            if name in fresh:
                yield from self._answer(fresh[name])
        for name in self._passed_up:
            if name in fresh:
                yield Emit(name, fresh[name].message)
        if "task" in fresh:
            self._next_ns = now_ns
        task = inbox.get("task")
        if (
            now_ns < self._next_ns
            or not isinstance(task, Task)
            or not any(name in fresh for name in self._observer.wakes)
        ):
            return
        observation = self._observer.observation(now_ns, inbox)
        if observation is not None:
            self._next_ns = now_ns + self._period_ns
            yield self._ask(observation, task)

    def _ask(self, observation: Observation, task: Task) -> Emit:
        self._asked[observation.observation_ns] = task.task_id
        if len(self._asked) > REMEMBERED:
            del self._asked[next(iter(self._asked))]
        frames = tuple(msgspec.structs.replace(frame, depth_mm=None) for frame in observation.frames)
        observation = msgspec.structs.replace(observation, frames=frames)
        if self._quality == 0:
            return Emit("observation", observation)
        return Emit("observation/jpeg", packed(observation, self._quality))

    def _answer(self, received: Received) -> Iterator[Emit]:
        answer = received.message
        assert isinstance(answer, Thought | Intent)  # noqa: S101 - the topics' types
        if self._asked.get(answer.observation_ns) != answer.task_id:
            self.dropped += 1
            _log.warning("%s %d is no answer to anything asked here", received.header.topic, answer.intent_id)
            return
        yield Emit(received.header.topic, answer, received)

    def request_stop(self) -> None:
        """Nothing to prepare."""

    @property
    def stopped(self) -> bool:
        """Always: no step is under way between steps."""
        return True

    def close(self) -> None:
        """Nothing to release."""
