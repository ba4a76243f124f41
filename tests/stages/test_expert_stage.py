"""The expert's stage: which intent it acts on, and what it knows of what is executed."""

import numpy as np
import pytest
from policy_bench import MS, Topics, arm, intent, task

from syvla.config import IntentPolicy, PolicyConfig
from syvla.errors import MessageError
from syvla.message import Float64
from syvla.messages import (
    ActionChunk,
    Intent,
    JointCommand,
    Provenance,
    Source,
    Splice,
)
from syvla.protocols import OnNew
from syvla.stages.expert import ExpertStage


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
    expected = OnNew(("arm/left", "intent"), 50 * MS, at_once=("intent",), rest_ns=10 * MS)
    assert stage.trigger == expected, "no intent waits for its turn, but for the robot's answer to the last chunk"


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
