"""The planner and expert stages: what they look at, what they refuse, and what they pass on."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest

from syvla.config import IntentPolicy, PolicyConfig
from syvla.control.observation import observe, proprioception
from syvla.errors import ConfigError, MessageError
from syvla.message import Float64, Message
from syvla.messages import (
    ActionChunk,
    ArmName,
    ArmState,
    CameraFrame,
    Intent,
    JointCommand,
    Observation,
    Provenance,
    SimTruth,
    Source,
    Splice,
    Task,
    Thought,
)
from syvla.protocols import Header, Inbox, PartialThought, Received
from syvla.stages.blank import BlankedPlanner
from syvla.stages.expert import ExpertStage
from syvla.stages.planner import PlannerStage

MS = 1_000_000


def arm(name: ArmName, measured_ns: int, position: float = 0.1, velocity: float = 0.0) -> ArmState:
    return ArmState(
        arm=name,
        measured_ns=measured_ns,
        position_rad=np.full(6, position),
        velocity_rad_s=np.full(6, velocity),
        effort_nm=np.zeros(6),
        gripper_width_m=0.02,
        enabled=True,
    )


def frame(camera: str, exposure_ns: int) -> CameraFrame:
    return CameraFrame(camera=camera, frame_id=1, exposure_ns=exposure_ns, rgb=np.zeros((4, 4, 3), np.uint8))


def task(task_id: int = 1) -> Task:
    return Task(task_id=task_id, instruction="tidy up", issued_ns=0)


def intent(intent_id: int, observation_ns: int, task_id: int = 1) -> Intent:
    return Intent(
        intent_id=intent_id,
        task_id=task_id,
        observation_ns=observation_ns,
        chain_of_thought="so",
        feature_query_states=np.zeros((20, 4), np.float16),
        model_id="echo",
    )


def truth(stamp_ns: int) -> SimTruth:
    return SimTruth(
        stamp_ns=stamp_ns,
        reset_id=1,
        task="t",
        instruction="tidy up",
        progress=0.0,
        success=False,
        names=(),
        pose=np.zeros((0, 7)),
        held_by=(),
        inside=(),
        hands_m=np.zeros((2, 3)),
    )


class Topics:
    """An inbox that is filled by hand."""

    def __init__(self) -> None:
        self.latest: dict[str, Received] = {}
        self._fresh: dict[str, Received] = {}

    def put(self, topic: str, message: Message, epoch: int = 0) -> "Topics":
        """Deliver a message."""
        received = Received(Header(topic, epoch, 0, 0, 0), message, 0, lambda: ())
        self.latest[topic] = self._fresh[topic] = received
        return self

    def arms(self, now_ns: int) -> "Topics":
        """Deliver feedback of both arms."""
        return self.put("arm/left", arm("left", now_ns)).put("arm/right", arm("right", now_ns))

    def take(self) -> Inbox:
        """What a step gets."""
        fresh, self._fresh = list(self._fresh.values()), {}
        return Inbox(self.latest, fresh)


# ---------------------------------------------------------------- observation


def test_two_arms_are_brought_to_the_older_of_their_stamps() -> None:
    left, right = arm("left", 1000 * MS, 0.5, 2.0), arm("right", 1004 * MS, 0.3, -1.0)
    senses = proprioception(left, right, 1000 * MS)
    assert senses == pytest.approx([*[0.5] * 6, 0.02, *[0.304] * 6, 0.02])


def test_an_arm_is_carried_by_a_tenth_of_a_second_at_most() -> None:
    senses = proprioception(arm("left", 300 * MS, 0.5, 1.0), arm("right", 0, 0.5, 1.0), 0)
    assert senses[:6] == pytest.approx([0.4] * 6)
    assert senses[7:13] == pytest.approx([0.5] * 6)


def test_an_observation_is_as_old_as_its_oldest_source_and_says_each_age() -> None:
    seen = observe(arm("left", 50 * MS), arm("right", 55 * MS), (frame("cam_high", 20 * MS),))
    assert seen.observation_ns == 20 * MS
    assert seen.source_age_s == pytest.approx({"left": -0.03, "right": -0.035, "cam_high": 0.0})
    assert [f.camera for f in seen.frames] == ["cam_high"]


# ---------------------------------------------------------------- planner


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
    stage = PlannerStage(Thinker(), (), PolicyConfig())
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
    stage = PlannerStage(Thinker(), (), PolicyConfig())
    assert not list(stage.step(0, Topics().put("task", task()).take()))
    assert not list(stage.step(0, Topics().arms(0).take()))
    assert not list(stage.step(60 * MS, Topics().arms(0).put("task", task()).take()))
    nothing = Task(task_id=2, instruction=" ", issued_ns=0)
    assert not list(stage.step(0, Topics().arms(0).put("task", nothing).take()))


@pytest.mark.parametrize("lacking", ["none", "stale", "missing"])
def test_the_planner_needs_every_camera_fresh(lacking: str) -> None:
    thinker = Thinker()
    stage = PlannerStage(thinker, ("cam_high", "cam_left_wrist"), PolicyConfig())
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
    blind = PlannerStage(Thinker(), (), policy)
    assert blind.trigger.topics == ("arm/left", "arm/right", "task")
    assert blind.trigger.min_period_ns == 250 * MS
    assert "sim/truth" not in blind.reads
    seeing = PlannerStage(Thinker(reads_truth=True), ("cam_high",), policy)
    assert seeing.trigger.topics == ("camera/cam_high", "task")
    assert {"sim/truth", "camera/cam_high", "task", "arm/left", "arm/right"} == set(seeing.reads)
    with pytest.raises(ConfigError, match="camera/cam_low"):
        PlannerStage(Thinker(), ("cam_low",), policy)


def test_the_truth_is_only_for_a_planner_that_wants_it_and_then_it_waits_for_it() -> None:
    for reads_truth in (False, True):
        thinker = Thinker(reads_truth=reads_truth)
        stage = PlannerStage(thinker, (), PolicyConfig())
        topics = Topics().arms(0).put("task", task())
        assert bool(list(stage.step(0, topics.take()))) is not reads_truth
        assert list(stage.step(0, topics.put("sim/truth", truth(0)).take()))
        assert (thinker.seen[-1][1] is not None) is reads_truth


def test_an_intent_of_another_task_than_was_asked_is_not_sent() -> None:
    topics = Topics().arms(0).put("task", task(1))
    stage = PlannerStage(Thinker(task_id=9), (), PolicyConfig())
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

    stage = PlannerStage(Overflowing(), (), PolicyConfig())
    topics = Topics().arms(0).put("task", task())
    assert [emit.topic for emit in stage.step(0, topics.take())] == ["thought"]
    assert stage.dropped == 1
    assert [emit.topic for emit in stage.step(1, topics.take())][-1] == "intent"
    assert stage.dropped == 1


def test_a_newer_task_ends_a_thought() -> None:
    assert PlannerStage(Thinker(), ("cam_high",), PolicyConfig()).trigger.preempted_by == ("task",)


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
    stage = PlannerStage(Thinker(nothing=True), (), PolicyConfig())
    assert [e.topic for e in stage.step(0, Topics().arms(0).put("task", task()).take())] == ["thought", "thought"]
    stage.request_stop()
    assert stage.stopped
    stage.close()


# ---------------------------------------------------------------- expert


class Actor:
    """Stays where the arms are, and remembers what it was given."""

    def __init__(self) -> None:
        self.intents: list[int] = []
        self.refuses: set[int] = set()
        self.committed: list[ActionChunk | None] = []
        self.delays: list[int] = []
        self.seen: list[tuple[int, Float64]] = []

    def act(
        self,
        intent: Intent,
        observation_ns: int,
        proprioception: Float64,
        committed: ActionChunk | None,
        chunk_id: int,
        inference_delay_steps: int,
    ) -> ActionChunk:
        """A chunk that stands still."""
        self.intents.append(intent.intent_id)
        if intent.intent_id in self.refuses:
            raise MessageError("waypoints must have shape (20, 32), not (20, 4)")
        self.committed.append(committed)
        self.delays.append(inference_delay_steps)
        self.seen.append((observation_ns, proprioception))
        return ActionChunk(
            chunk_id=chunk_id,
            task_id=intent.task_id,
            intent_id=intent.intent_id,
            intent_observation_ns=intent.observation_ns,
            observation_ns=observation_ns,
            period_ns=33_333_333,
            position_rad=np.zeros((5, 12), np.float32),
            gripper_width_m=np.zeros((5, 2), np.float32),
            inference_delay_steps=inference_delay_steps,
        )


def expert(policy: str = "hold", latency_s: float = 0.0) -> tuple[Actor, ExpertStage]:
    actor = Actor()
    config = IntentPolicy(stale_policy=policy)  # type: ignore[arg-type]
    return actor, ExpertStage(actor, config, PolicyConfig(expert_latency_s=latency_s))


def splice(steps: int, replaced: int = 3) -> Splice:
    return Splice(
        splice_id=1,
        chunk_id=4,
        intent_id=1,
        replaced_chunk_id=replaced,
        observation_ns=0,
        spliced_ns=0,
        inference_delay_steps=steps,
        jump_rad=0.0,
    )


def test_the_expert_acts_on_the_newest_intent_at_the_older_stamp_of_the_arms() -> None:
    actor, stage = expert()
    topics = Topics().put("intent", intent(3, 0)).put("task", task())
    topics.put("arm/left", arm("left", 20 * MS, 0.2, 1.0)).put("arm/right", arm("right", 15 * MS))
    (emit,) = stage.step(21 * MS, topics.take())
    assert emit.topic == "chunk"
    assert actor.intents == [3]
    assert actor.seen[0][0] == 15 * MS
    assert actor.seen[0][1][:6] == pytest.approx([0.195] * 6)
    assert stage.trigger.topics == ("arm/left",)
    assert stage.trigger.min_period_ns == 50 * MS


def test_the_expert_does_nothing_without_intent_arms_or_fresh_feedback() -> None:
    for topics, now_ns in (
        (Topics().arms(0), 0),
        (Topics().put("intent", intent(1, 0)), 0),
        (Topics().put("intent", intent(1, 0)).put("arm/left", arm("left", 0)), 0),
        (Topics().put("intent", intent(1, 0)).arms(0), 51 * MS),
        (Topics().put("intent", intent(1, 0)).arms(0).put("arm/right", arm("right", 60 * MS)), 60 * MS),
    ):
        actor, stage = expert()
        assert not list(stage.step(now_ns, topics.take()))
        assert not actor.intents


@pytest.mark.parametrize(("policy", "last_ms"), [("hold", 1000), ("slow_down", 2000), ("use", None)])
def test_the_expert_uses_an_intent_as_long_as_its_policy_allows(policy: str, last_ms: int | None) -> None:
    _, stage = expert(policy)
    topics = Topics().put("intent", intent(1, 0))
    if last_ms is not None:
        assert list(stage.step(last_ms * MS, topics.arms(last_ms * MS).take()))
        assert not list(stage.step(last_ms * MS + 1, topics.arms(last_ms * MS).take()))
    else:
        assert list(stage.step(3_600_000 * MS, topics.arms(3_600_000 * MS).take()))


def test_an_intent_of_a_task_that_is_over_is_not_acted_on() -> None:
    _, stage = expert()
    topics = Topics().put("intent", intent(1, 0, task_id=1)).put("task", task(2)).arms(0)
    assert not list(stage.step(0, topics.take()))
    topics.put("intent", intent(2, 1, task_id=2))
    assert list(stage.step(0, topics.take()))


def test_stale_duplicate_and_old_epoch_intents_are_dropped_and_counted() -> None:
    actor, stage = expert()
    topics = Topics().arms(0)
    for dropped, (intent_id, observed_ns, epoch) in enumerate(
        ((5, 100, 1), (5, 100, 1), (4, 200, 1), (6, 99, 1), (0, 101, 2), (7, 300, 1), (0, 102, 2))
    ):
        list(stage.step(0, topics.put("intent", intent(intent_id, observed_ns), epoch).take()))
        # accepted: the first, and the first of the planner that started anew
        assert stage.dropped == {0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: 5}[dropped]
    assert actor.intents == [5, 5, 5, 5, 0, 0, 0]


def test_an_intent_that_the_expert_refuses_is_dropped_once_and_the_next_one_is_acted_on() -> None:
    """An intent of another model's width ended the expert's process: the arms held, and nothing came back."""
    actor, stage = expert()
    actor.refuses = {5}
    topics = Topics().arms(0)
    assert list(stage.step(0, topics.put("intent", intent(5, 100)).take())) == []
    assert list(stage.step(0, topics.arms(1).take())) == []
    assert stage.dropped == 1
    (emit,) = stage.step(0, topics.put("intent", intent(6, 200)).take())
    assert emit.topic == "chunk"
    assert actor.intents == [5, 6]


def test_the_inference_delay_is_a_high_quantile_of_what_was_executed_without_warm_up() -> None:
    actor, stage = expert(latency_s=0.07)
    topics = Topics().put("intent", intent(1, 0))

    def delay_after(*splices: Splice) -> int:
        for message in splices:
            list(stage.step(0, topics.arms(0).put("splice", message).take()))
        return actor.delays[-1]

    list(stage.step(0, topics.arms(0).take()))
    assert actor.delays == [2]  # from the configured latency, before anything was measured
    assert delay_after(splice(21, replaced=-1)) == 2
    assert delay_after(*[splice(1)] * 20) == 1
    assert delay_after(*[splice(4)] * 5) == 4
    assert delay_after(*[splice(1)] * 40) == 1


def test_the_committed_chunk_is_the_one_the_robot_says_it_executes() -> None:
    actor, stage = expert()
    topics = Topics().put("intent", intent(1, 0))

    def command(source: Source, chunk_id: int) -> JointCommand:
        return JointCommand(
            command_id=0,
            commanded_ns=0,
            position_rad=np.zeros(12),
            gripper_width_m=np.zeros(2),
            provenance=Provenance(source=source, chunk_id=chunk_id),
            intent_age_s=0.0,
            limited_joints=0,
        )

    sent = [next(iter(stage.step(0, topics.arms(0).take()))).message for _ in range(3)]
    assert actor.committed == [None] * 3
    for source, chunk_id, expected in (
        (Source.POLICY, 1, sent[1]),
        (Source.HOLD, -1, None),
        (Source.TELEOP, 1, None),
        (Source.POLICY, 77, None),
    ):
        list(stage.step(0, topics.arms(0).put("command", command(source, chunk_id)).take()))
        assert actor.committed[-1] is expected
    stage.request_stop()
    assert stage.stopped
    stage.close()
