"""The planner's stage: what it looks at, what it refuses, and what it passes on."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from policy_bench import MS, Topics, arm, frame, intent, task, truth

from syvla.config import PolicyConfig
from syvla.control.observation import observe
from syvla.errors import ConfigError, MessageError
from syvla.messages import (
    CameraFrame,
    Intent,
    Observation,
    SimTruth,
    Task,
    Thought,
)
from syvla.protocols import PartialThought
from syvla.stages.blank import BlankedPlanner
from syvla.stages.observer import Observer
from syvla.stages.planner import PlannerStage


class Thinker:
    """Thinks two words, then wants what it was told to want."""

    model_id = "thinker"

    def __init__(self, reads_truth: bool = False, task_id: int | None = None, nothing: bool = False) -> None:
        self.reads_truth = reads_truth
        self.task_id = task_id
        self.nothing = nothing
        self.seen: list[tuple[Observation, SimTruth | None]] = []

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        """Yield both words, then perhaps an intent."""
        self.seen.append((observation, truth))
        yield PartialThought("first")
        yield PartialThought("first then")
        if not self.nothing:
            yield intent(intent_id, observation.observation_ns, self.task_id or task.task_id)


def test_the_planner_sends_its_thoughts_as_they_grow_and_then_the_intent() -> None:
    stage = PlannerStage(Thinker(), Observer(()), PolicyConfig())
    topics = Topics().arms(100 * MS).put("task", task())
    emits = list(stage.step(101 * MS, topics.take()))
    assert [emit.topic for emit in emits] == ["thought", "thought", "thought", "intent"]
    thoughts = [emit.message for emit in emits if isinstance(emit.message, Thought)]
    assert [(t.text, t.complete) for t in thoughts] == [("first", False), ("first then", False), ("so", True)]
    assert {t.intent_id for t in thoughts} == {0}
    again = list(stage.step(102 * MS, topics.take()))
    assert isinstance(again[-1].message, Intent)
    assert again[-1].message.intent_id == 1


def test_the_planner_does_nothing_without_task_or_arms() -> None:
    stage = PlannerStage(Thinker(), Observer(()), PolicyConfig())
    assert not list(stage.step(0, Topics().put("task", task()).take()))
    assert not list(stage.step(0, Topics().arms(0).take()))
    assert not list(stage.step(60 * MS, Topics().arms(0).put("task", task()).take()))
    nothing = Task(task_id=2, instruction=" ", issued_ns=0)
    assert not list(stage.step(0, Topics().arms(0).put("task", nothing).take()))


@pytest.mark.parametrize("lacking", ["none", "stale", "missing"])
def test_the_planner_needs_every_camera_fresh(lacking: str) -> None:
    thinker = Thinker()
    stage = PlannerStage(thinker, Observer(("cam_high", "cam_left_wrist")), PolicyConfig())
    now_ns = 1000 * MS
    topics = Topics().arms(now_ns).put("task", task()).put("camera/cam_high", frame("cam_high", now_ns))
    if lacking != "missing":
        age_ns = (201 if lacking == "stale" else 199) * MS
        topics.put("camera/cam_left_wrist", frame("cam_left_wrist", now_ns - age_ns))
    emits = list(stage.step(now_ns, topics.take()))
    assert bool(emits) == (lacking == "none")
    if emits:
        assert [f.camera for f in thinker.seen[0][0].frames] == ["cam_high", "cam_left_wrist"]


def test_the_planner_wakes_on_cameras_where_there_are_any_and_names_unknown_ones() -> None:
    policy = PolicyConfig(planner_min_period_s=0.25)
    blind = PlannerStage(Thinker(), Observer(()), policy)
    assert blind.trigger.topics == ("arm/left", "arm/right", "task")
    assert blind.trigger.min_period_ns == 250 * MS
    assert "sim/truth" not in blind.reads
    seeing = PlannerStage(Thinker(reads_truth=True), Observer(("cam_high",)), policy)
    assert seeing.trigger.topics == ("camera/cam_high", "task")
    assert {"sim/truth", "camera/cam_high", "task", "arm/left", "arm/right"} == set(seeing.reads)
    with pytest.raises(ConfigError, match="camera/cam_low"):
        PlannerStage(Thinker(), Observer(("cam_low",)), policy)


def test_the_truth_is_only_for_a_planner_that_wants_it_and_then_it_waits_for_it() -> None:
    for reads_truth in (False, True):
        thinker = Thinker(reads_truth=reads_truth)
        stage = PlannerStage(thinker, Observer(()), PolicyConfig())
        topics = Topics().arms(0).put("task", task())
        assert bool(list(stage.step(0, topics.take()))) is not reads_truth
        assert list(stage.step(0, topics.put("sim/truth", truth(0)).take()))
        assert (thinker.seen[-1][1] is not None) is reads_truth


def test_an_intent_of_another_task_than_was_asked_is_not_sent() -> None:
    topics = Topics().arms(0).put("task", task(1))
    stage = PlannerStage(Thinker(task_id=9), Observer(()), PolicyConfig())
    assert [emit.topic for emit in stage.step(0, topics.take())] == ["thought", "thought"]


def test_an_intent_that_cannot_be_said_is_dropped_and_the_next_one_is_sent() -> None:
    class Overflowing(Thinker):
        def think(
            self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
        ) -> Iterator[PartialThought | Intent]:
            if intent_id == 0:
                yield PartialThought("first")
                raise MessageError("the query states of intent 0 are not finite in float16")
            yield from super().think(observation, task, intent_id, truth)

    stage = PlannerStage(Overflowing(), Observer(()), PolicyConfig())
    topics = Topics().arms(0).put("task", task())
    assert [emit.topic for emit in stage.step(0, topics.take())] == ["thought"]
    assert stage.dropped == 1
    assert [emit.topic for emit in stage.step(1, topics.take())][-1] == "intent"
    assert stage.dropped == 1


def test_a_newer_task_ends_a_thought() -> None:
    trigger = PlannerStage(Thinker(), Observer(("cam_high",)), PolicyConfig()).trigger
    assert trigger.preempted_by == ("task",)
    assert trigger.outdated_by == ()


def test_a_newer_observation_ends_one_if_that_is_asked_for() -> None:
    policy = PolicyConfig(planner_preempt_after_s=0.25)
    trigger = PlannerStage(Thinker(), Observer(("cam_high", "cam_left_wrist")), policy).trigger
    assert trigger.preempted_by == ("task",)
    assert (trigger.outdated_by, trigger.patience_ns) == (("camera/cam_high", "camera/cam_left_wrist"), 250 * MS)


@pytest.mark.parametrize("blank", ["instruction", "images"])
def test_a_blanked_planner_sees_all_but_what_is_kept_from_it(blank: Literal["instruction", "images"]) -> None:
    class Noting(Thinker):
        def think(
            self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
        ) -> Iterator[PartialThought | Intent]:
            self.tasks.append(task)
            yield from super().think(observation, task, intent_id, truth)

        def __init__(self) -> None:
            super().__init__(reads_truth=True)
            self.tasks: list[Task] = []

    inner = Noting()
    planner = BlankedPlanner(inner, blank)
    assert (planner.model_id, planner.reads_truth) == ("thinker", True)
    bright = CameraFrame(camera="cam_high", frame_id=7, exposure_ns=5, rgb=np.full((4, 6, 3), 200, np.uint8))
    seen = observe(arm("left", 5), arm("right", 5), (bright,))
    assert isinstance(list(planner.think(seen, task(3), 9, truth(5)))[-1], Intent)
    (observation, given_truth), given = inner.seen[0], inner.tasks[0]
    assert given_truth is not None
    assert given.task_id == 3
    assert given.instruction == ("" if blank == "instruction" else "tidy up")
    (frame_seen,) = observation.frames
    assert (frame_seen.frame_id, frame_seen.exposure_ns, frame_seen.rgb.shape) == (7, 5, (4, 6, 3))
    assert frame_seen.rgb.max() == (200 if blank == "instruction" else 0)
    assert np.array_equal(observation.proprioception, seen.proprioception)


def test_a_planner_may_want_nothing() -> None:
    stage = PlannerStage(Thinker(nothing=True), Observer(()), PolicyConfig())
    assert [e.topic for e in stage.step(0, Topics().arms(0).put("task", task()).take())] == ["thought", "thought"]
    stage.request_stop()
    assert stage.stopped
    stage.close()
