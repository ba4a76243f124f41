"""How the reaction benchmark takes turns, chooses its moment and tells two runs apart."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from syvla.bench.reaction import CHANGED_RAD, STANDING_S, Turns, first_difference_s, first_reach
from syvla.messages import ActionChunk, Intent, SimTruth
from syvla.protocols import Emit, Header, Inbox, OnNew, Received

MS = 1_000_000
PERIOD_NS = 20 * MS


class _Stage:
    """Says one thing at every step."""

    name = "planner"
    reads: tuple[str, ...] = ("task",)
    writes: tuple[str, ...] = ("thought",)
    trigger = OnNew(("task",))
    lossless = False
    stopped = True

    def __init__(self, message: Any, topic: str = "chunk") -> None:
        self.message = message
        self.topic = topic

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        return [Emit(self.topic, self.message)] if self.message is not None else []

    def request_stop(self) -> None: ...

    def close(self) -> None: ...


def chunk() -> ActionChunk:
    rows = np.arange(50, dtype=np.float32)[:, None]
    return ActionChunk(
        task_id=1, chunk_id=1, intent_id=1, intent_observation_ns=0, observation_ns=0, period_ns=PERIOD_NS,
        position_rad=np.repeat(rows, 12, axis=1), gripper_width_m=np.repeat(rows, 2, axis=1), inference_delay_steps=0,
    )  # fmt: skip


def inbox(*topics: str) -> Inbox:
    intent = Intent(
        intent_id=1, task_id=1, observation_ns=0, chain_of_thought="", model_id="m",
        feature_query_states=np.zeros((20, 8), np.float16),
    )  # fmt: skip
    return Inbox({}, [Received(Header(topic, 0, 0, 0, 0), intent, 0, tuple) for topic in topics])


def test_a_loop_that_does_one_thing_at_a_time_thinks_infers_and_executes_to_the_end() -> None:
    thinker, actor, turns = _Stage(chunk(), "intent"), _Stage(chunk()), Turns()
    planner, expert = turns.planner(thinker), turns.expert(actor, 0.03)
    assert list(planner.step(100 * MS, inbox()))
    assert not list(planner.step(200 * MS, inbox())), "a thought is under way or has just been had"
    assert not list(expert.step(200 * MS, inbox("arm/left"))), "nothing new to act on"
    (emit,) = expert.step(300 * MS, inbox("intent"))
    made = emit.message
    assert isinstance(made, ActionChunk)
    assert made.observation_ns == 330 * MS, "it begins when it is there"
    assert made.position_rad[49, 0] == 49.0
    assert (made.position_rad[50:] == 49.0).all(), "and stands at its end while the next one is made"
    assert len(made.position_rad) == 50 + STANDING_S * 1000 / 20
    end_ns = 330 * MS + 49 * PERIOD_NS
    assert not list(planner.step(end_ns - 1, inbox()))
    assert list(planner.step(end_ns, inbox()))


def test_an_expert_that_makes_nothing_of_an_intent_gives_the_turn_back() -> None:
    turns = Turns()
    planner, expert = turns.planner(_Stage(chunk(), "intent")), turns.expert(_Stage(None), 0.03)
    assert list(planner.step(0, inbox()))
    assert not list(expert.step(10 * MS, inbox("intent")))
    assert list(planner.step(20 * MS, inbox()))


def truth(at_ms: int, hand_m: float, held: bool) -> SimTruth:
    pose = np.zeros((3, 7))
    pose[:, 0] = (0.30, 0.38, 0.30)  # something lies on its far side, and something on its left
    pose[:, 1] = (0.0, 0.0, 0.1)
    return SimTruth(
        stamp_ns=at_ms * MS, reset_id=1, task="t", instruction="", progress=0.0, success=False,
        names=("cup", "can", "bar"), pose=pose, held_by=("right" if held else "", "", ""), inside=("", "", ""),
        hands_m=np.array([[0.0, 0.5, 0.2], [0.30, 0.0, hand_m]]),
    )  # fmt: skip


def test_a_thing_is_moved_on_the_way_to_it_and_where_there_is_room() -> None:
    way = [truth(ms, 0.4 - ms / 2500, held=ms >= 1000) for ms in range(0, 1001, 50)]
    reach = first_reach(way, 0.5)
    assert reach is not None
    assert reach.thing == "cup"
    assert reach.at_ns == 500 * MS
    assert reach.by_m in [(-0.06, 0.0), (0.0, -0.06)]
    assert first_reach(way[:-1], 0.5) is None, "nothing was grasped"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_first_set_point_that_differs_is_the_answer(sign: float) -> None:
    plain = {ms * MS: np.zeros(14) for ms in range(0, 100, 5)}
    moved = {at_ns: sent.copy() for at_ns, sent in plain.items()}
    moved[30 * MS][3] = sign * 0.9 * CHANGED_RAD
    assert first_difference_s(plain, moved, 10 * MS) is None
    moved[45 * MS][3] = sign * 1.1 * CHANGED_RAD
    assert first_difference_s(plain, moved, 10 * MS) == pytest.approx(0.035)
