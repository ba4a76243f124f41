"""Newer observations end thoughts that have gone on for too long, in every host, and intents come all the same."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from syvla.config import PolicyConfig
from syvla.hosts.lockstep import LockstepHost
from syvla.hosts.preemption import Preemption, said_before
from syvla.hosts.process import _WorkerStep
from syvla.messages import ArmState, CameraFrame, Intent, Observation, SimTruth, Task, Thought
from syvla.protocols import Emit, Inbox, OnNew, PartialThought, Periodic
from syvla.stages.observer import Observer
from syvla.stages.planner import PlannerStage

MS = 1_000_000
WORDS = 9
TRIGGER = OnNew(("camera/cam_high", "task"), 0, ("task",), ("camera/cam_high",), 100 * MS)


# ---------------------------------------------------------------- the rule


def test_a_newer_task_ends_a_step_at_once_and_a_newer_observation_in_time() -> None:
    rule = Preemption(TRIGGER)
    rule.begin()
    assert not rule.ends(("camera/cam_high",), 99 * MS)
    assert not rule.ends(("arm/left",), 500 * MS)
    assert rule.ends(("camera/cam_high", "arm/left"), 100 * MS)
    rule.begin()
    assert rule.ends(("task",), 0)


def test_the_step_after_an_outdated_one_is_spared_and_no_other() -> None:
    rule = Preemption(TRIGGER)
    ended = []
    for _ in range(6):
        rule.begin()
        ended.append(rule.ends(("camera/cam_high",), 200 * MS))
    assert ended == [True, False] * 3
    rule.begin()
    assert rule.ends(("camera/cam_high",), 200 * MS)
    rule.begin()
    assert rule.ends(("task",), 1), "but not from another task"


@pytest.mark.parametrize("trigger", [Periodic(5 * MS), OnNew(("camera/cam_high",))])
def test_what_names_nothing_is_never_ended(trigger: Periodic | OnNew) -> None:
    rule = Preemption(trigger)
    rule.begin()
    assert not rule.ends(("camera/cam_high", "task"), 10**12)


def test_a_step_is_ended_at_the_message_that_it_would_say_next() -> None:
    told: list[str] = []

    def step() -> Iterator[Emit]:
        for number in range(9):
            told.append(str(number))
            thought = Thought(task_id=1, intent_id=1, observation_ns=0, text=str(number), complete=False)
            yield Emit("thought", thought)

    assert [emit.message.text for emit in said_before(step(), 2)] == ["0", "1"]  # type: ignore[attr-defined]
    assert told == ["0", "1", "2"]


def test_what_is_made_is_not_outdated_any_more() -> None:
    """A thought that ended a moment before its intent was sent would have been for nothing."""
    woken = threading.Event()
    for latency_ns in (0, 300 * MS):
        step = _WorkerStep(_Quick(), latency_ns, woken.set)  # type: ignore[arg-type]
        with ThreadPoolExecutor(1) as worker:
            woken.clear()
            step.start(worker, 0, Inbox({}, ()))
        assert step.running
        assert step.made is (latency_ns == 0)


class _Quick:
    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        return ()


# ---------------------------------------------------------------- in the loop


class Senses:
    """Both arms and one camera, 30 times a second."""

    name = "cameras"
    reads: tuple[str, ...] = ()
    writes = ("arm/left", "arm/right", "camera/cam_high")
    trigger = Periodic(33_333_333)
    lossless = False
    stopped = True

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        for arm in ("left", "right"):
            state = ArmState(
                arm=arm,
                measured_ns=now_ns,
                position_rad=np.zeros(6),
                velocity_rad_s=np.zeros(6),
                effort_nm=np.zeros(6),
                gripper_width_m=0.02,
                enabled=True,
            )
            yield Emit(f"arm/{arm}", state)
        rgb = np.zeros((4, 4, 3), np.uint8)
        yield Emit("camera/cam_high", CameraFrame(camera="cam_high", frame_id=0, exposure_ns=now_ns, rgb=rgb))

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


class Slow:
    """Thinks ``WORDS`` words about every observation; remembers how many thoughts it has brought to an end."""

    model_id = "slow"
    reads_truth = False
    remembered = ("ended",)

    def __init__(self) -> None:
        self.ended = 0

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        for number in range(WORDS):
            yield PartialThought(f"{self.ended} before, word {number}")
        self.ended += 1
        yield Intent(
            intent_id=intent_id,
            task_id=task.task_id,
            observation_ns=observation.observation_ns,
            chain_of_thought=f"thought {self.ended}",
            feature_query_states=np.zeros((20, 4), np.float16),
            model_id="slow",
        )


class Witness(Senses):
    """Notes thoughts and intents."""

    name = "dashboard"
    reads = ("thought", "intent")
    writes = ()  # type: ignore[assignment]
    trigger = OnNew(("thought", "intent"))  # type: ignore[assignment]
    lossless = True

    def __init__(self) -> None:
        self.thoughts: list[tuple[int, Thought]] = []
        self.intents: list[tuple[int, Intent]] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        for received in inbox.fresh:
            if isinstance(received.message, Thought):
                self.thoughts.append((now_ns, received.message))
            elif isinstance(received.message, Intent):
                self.intents.append((now_ns, received.message))
        return ()


def watched(latency_s: float, preempt_after_s: float) -> Witness:
    """Four seconds of a planner that takes ``latency_s`` for each thought."""
    policy = PolicyConfig(planner_preempt_after_s=preempt_after_s)
    witness = Witness()
    planner = PlannerStage(Slow(), Observer(("cam_high",)), policy)
    host = LockstepHost([Senses(), planner, witness], {"planner": latency_s})
    host.inject("task", Task(task_id=1, instruction="tidy up", issued_ns=0))
    host.run_until(4000 * MS)
    host.stop()
    return witness


def test_a_thought_that_goes_on_too_long_is_cut_and_the_next_begins_with_what_is_newer() -> None:
    seen = watched(0.5, 0.2)
    whole = {intent.intent_id for _, intent in seen.intents}
    began = {t.intent_id: t.observation_ns for _, t in seen.thoughts}
    cut = sorted(set(began) - whole)
    assert len(whole) >= 5, "every other thought is spared"
    assert len(cut) >= 5
    for number in cut[:-1]:
        words = [(at, t) for at, t in seen.thoughts if t.intent_id == number]
        assert not any(t.complete for _, t in words)
        assert max(at for at, _ in words) <= began[number] + 200 * MS + 34 * MS
        assert began[number] + 200 * MS <= began[number + 1] <= began[number] + 234 * MS
        assert number + 1 in whole or number + 1 == max(began)


def test_what_was_cut_was_never_thought_to_its_end() -> None:
    """The host makes a step in no time: a planner that was cut on its way knew its whole thought."""
    seen = watched(0.5, 0.2)
    assert [intent.chain_of_thought for _, intent in seen.intents] == [
        f"thought {k}" for k in range(1, len(seen.intents) + 1)
    ]


def test_thoughts_that_are_quick_enough_are_let_be() -> None:
    for latency_s, preempt_after_s in ((0.15, 0.2), (0.5, 0.0)):
        seen = watched(latency_s, preempt_after_s)
        whole = {intent.intent_id for _, intent in seen.intents}
        assert {t.intent_id for _, t in seen.thoughts} - whole <= {max(whole) + 1}, "none but the last is unfinished"


def test_a_time_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"planner_preempt_after_s must be 0\.\.60, not -1"):
        PolicyConfig(planner_preempt_after_s=-1.0)
