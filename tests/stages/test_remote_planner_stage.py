"""What stands in the planner's place when it is elsewhere: what goes up, and which answers are passed on."""

import numpy as np
import pytest
from policy_bench import MS, Topics, frame, intent, task, truth

from syvla.config import PolicyConfig
from syvla.messages import CameraFrame, CompressedObservation, Intent, Observation, Thought
from syvla.protocols import Emit
from syvla.stages.observer import Observer
from syvla.stages.remote_planner import REMEMBERED, RemotePlannerStage

POLICY = PolicyConfig(planner_min_period_s=0.05)


def stage(quality: int = 0, cameras: tuple[str, ...] = ("cam_high",), *, truth: bool = False) -> RemotePlannerStage:
    return RemotePlannerStage(Observer(cameras), POLICY, quality, truth=truth)


def senses(now_ns: int, topics: Topics | None = None) -> Topics:
    return (topics or Topics()).arms(now_ns).put("camera/cam_high", frame("cam_high", now_ns))


def topics_of(emits: list[Emit]) -> list[str]:
    return [emit.topic for emit in emits]


def thought(intent_id: int, observation_ns: int, task_id: int = 1) -> Thought:
    return Thought(task_id=task_id, intent_id=intent_id, observation_ns=observation_ns, text="so", complete=False)


def test_the_task_goes_up_and_then_what_is_seen() -> None:
    link = stage()
    topics = senses(100 * MS).put("task", task())
    emits = list(link.step(101 * MS, topics.take()))
    assert topics_of(emits) == ["task", "observation"]
    seen = emits[1].message
    assert isinstance(seen, Observation)
    assert seen.observation_ns == 100 * MS
    assert (link.name, link.writes, link.lossless) == ("planner", ("thought", "intent"), False)


def test_nothing_is_seen_without_a_task_or_fresh_senses() -> None:
    assert not list(stage().step(100 * MS, senses(100 * MS).take()))
    emits = list(stage().step(400 * MS, senses(100 * MS).put("task", task()).take()))
    assert topics_of(emits) == ["task"]


def test_observations_keep_their_distance_in_time_but_a_new_task_is_seen_to_at_once() -> None:
    link = stage()
    topics = senses(0).put("task", task())
    assert topics_of(list(link.step(0, topics.take()))) == ["task", "observation"]
    assert not list(link.step(49 * MS, senses(49 * MS, topics).take()))
    assert topics_of(list(link.step(50 * MS, senses(50 * MS, topics).take()))) == ["observation"]
    topics.put("task", task(2))
    assert topics_of(list(link.step(51 * MS, topics.take()))) == ["task", "observation"]


def test_images_go_up_as_jpeg_or_raw_and_depth_stays_here() -> None:
    depth = CameraFrame(
        camera="cam_high",
        frame_id=1,
        exposure_ns=0,
        rgb=np.zeros((4, 4, 3), np.uint8),
        depth_mm=np.zeros((4, 4), np.uint16),
    )
    topics = Topics().arms(0).put("task", task()).put("camera/cam_high", depth)
    raw, small = (list(stage(quality).step(0, topics.put("task", task()).take()))[1] for quality in (0, 90))
    assert (raw.topic, small.topic) == ("observation", "observation/jpeg")
    assert isinstance(raw.message, Observation)
    assert isinstance(small.message, CompressedObservation)
    assert raw.message.frames[0].depth_mm is None
    assert small.message.frames[0].depth_mm is None


def test_the_truth_goes_up_only_for_a_planner_that_reads_it() -> None:
    for wanted in (False, True):
        link = stage(truth=wanted)
        topics = senses(0).put("task", task()).put("sim/truth", truth(0))
        assert ("sim/truth" in topics_of(list(link.step(0, topics.take())))) is wanted
        assert ("sim/truth" in link.reads) is wanted


def test_an_answer_is_passed_on_with_its_header_and_bytes() -> None:
    link = stage()
    topics = senses(100 * MS).put("task", task())
    list(link.step(100 * MS, topics.take()))
    topics.put("thought", thought(7, 100 * MS), epoch=33).put("intent", intent(7, 100 * MS), epoch=33)
    emits = list(link.step(400 * MS, topics.take()))
    assert topics_of(emits) == ["thought", "intent"]
    assert [emit.origin for emit in emits] == [topics.latest["thought"], topics.latest["intent"]]
    assert link.dropped == 0


@pytest.mark.parametrize(
    "answer",
    [intent(7, 99 * MS), intent(7, 100 * MS, task_id=2), intent(7, 10**18), thought(7, 1), thought(7, 100 * MS, 9)],
    ids=["unseen", "another task", "the future", "thought of something unseen", "thought of another task"],
)
def test_what_answers_nothing_that_was_asked_here_is_dropped(answer: Intent | Thought) -> None:
    """Such as what another robot saw: with a stamp of another clock it could have looked fresh for hours."""
    link = stage()
    topics = senses(100 * MS).put("task", task())
    list(link.step(100 * MS, topics.take()))
    topics.put("intent" if isinstance(answer, Intent) else "thought", answer)
    assert not list(link.step(101 * MS, topics.take()))
    assert link.dropped == 1


def test_what_was_asked_is_forgotten_in_time() -> None:
    link = stage()
    topics = Topics().put("task", task())
    for count in range(REMEMBERED + 1):
        list(link.step(count * 50 * MS, senses(count * 50 * MS, topics).take()))
    now_ns = REMEMBERED * 50 * MS
    assert not list(link.step(now_ns, topics.put("intent", intent(1, 0)).take()))
    assert list(link.step(now_ns, topics.put("intent", intent(2, 50 * MS)).take()))


def test_it_wakes_for_what_is_seen_and_for_answers() -> None:
    assert stage().trigger.topics == ("camera/cam_high", "task", "thought", "intent")
    assert stage(cameras=()).trigger.topics == ("arm/left", "arm/right", "task", "thought", "intent")
    link = stage()
    link.request_stop()
    assert link.stopped
    link.close()
