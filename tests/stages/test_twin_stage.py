"""The twin's stage: the order of its step, its rates, and resets."""

from collections.abc import Sequence

import numpy as np
import pytest

from syvla.errors import ConfigError
from syvla.message import Message
from syvla.messages import SimReset, SimState, SimTruth
from syvla.protocols import Emit, Header, Inbox, Received
from syvla.stages.twin import TwinStage

TICK_NS = 5_000_000


class _Log:
    """Writes down who was called, in order; a world and a device at once."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def reset(self, reset: SimReset) -> None:
        if reset.task != "small":
            raise ConfigError(f"no task {reset.task!r}")
        self.calls.append(("reset", reset.reset_id))

    def advance(self, now_ns: int) -> None:
        self.calls.append(("advance", now_ns))

    def receive(self, now_ns: int) -> None:
        self.calls.append(("receive", now_ns))

    def send(self, now_ns: int) -> None:
        self.calls.append(("send", now_ns))

    def state(self, now_ns: int) -> SimState:
        return SimState(stamp_ns=now_ns, task="small", split="train", seed=0, reset_id=0, qpos=np.zeros(3))

    def truth(self, now_ns: int) -> SimTruth:
        return SimTruth(
            stamp_ns=now_ns,
            reset_id=0,
            task="small",
            instruction="",
            progress=0.0,
            success=False,
            names=(),
            pose=np.zeros((0, 7)),
            held_by=(),
            inside=(),
            hands_m=np.zeros((2, 3)),
        )

    def close(self) -> None:
        self.calls.append(("close", 0))


def _inbox(*messages: Message) -> Inbox:
    fresh = [Received(Header("sim/reset", 0, i, 0, 0), message, 0, tuple) for i, message in enumerate(messages)]
    return Inbox({"sim/reset": fresh[-1]} if fresh else {}, fresh)


def _step(stage: TwinStage, now_ns: int, *messages: Message) -> Sequence[Emit]:
    return list(stage.step(now_ns, _inbox(*messages)))


def _reset(task: str = "small", reset_id: int = 0) -> SimReset:
    return SimReset(reset_id=reset_id, task=task, split="train", seed=0)


def test_devices_listen_before_the_physics_and_answer_after_it() -> None:
    log = _Log()
    stage = TwinStage(log, (log,), TICK_NS)
    _step(stage, 10, _reset())
    assert log.calls == [("reset", 0), ("receive", 10), ("advance", 10), ("send", 10)]


def test_before_the_first_reset_the_devices_live_and_nothing_is_sent() -> None:
    log = _Log()
    stage = TwinStage(log, (log,), TICK_NS)
    assert all(not _step(stage, k * TICK_NS) for k in range(100))
    assert [name for name, _ in log.calls] == ["receive", "advance", "send"] * 100


def test_a_reset_is_answered_at_once_and_rates_are_kept() -> None:
    stage = TwinStage(_Log(), (), TICK_NS)
    _step(stage, 0)
    answered = _step(stage, TICK_NS, _reset())
    assert [emit.topic for emit in answered] == ["sim/state", "sim/truth"]
    assert answered[0].message.stamp_ns == TICK_NS  # type: ignore[attr-defined]
    emits = [emit.topic for k in range(2, 402) for emit in _step(stage, k * TICK_NS)]
    assert emits.count("sim/state") == pytest.approx(120, abs=1)
    assert emits.count("sim/truth") == pytest.approx(40, abs=1)


def test_a_reset_that_names_no_task_is_refused_and_the_twin_lives_on() -> None:
    log = _Log()
    stage = TwinStage(log, (), TICK_NS)
    assert not _step(stage, 0, _reset("large"))
    assert _step(stage, TICK_NS, _reset("small"))
    _step(stage, 2 * TICK_NS, _reset("large"))
    assert ("advance", 2 * TICK_NS) in log.calls


def test_closing_closes_devices_and_world() -> None:
    log = _Log()
    stage = TwinStage(log, (log,), TICK_NS)
    assert not stage.stopped
    stage.request_stop()
    assert stage.stopped
    stage.close()
    assert log.calls == [("close", 0), ("close", 0)]


def test_a_period_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match="period"):
        TwinStage(_Log(), (), 0)
