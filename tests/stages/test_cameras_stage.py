"""The cameras' stage: frames go out under their topics, states reach a renderer first."""

from collections.abc import Sequence

import numpy as np
import pytest

from syvla.errors import ConfigError
from syvla.messages import CameraFrame, SimState
from syvla.protocols import Header, Inbox, Periodic, Received
from syvla.stages.cameras import CamerasStage


class _Source:
    """Two cameras that show the last state's stamp."""

    def __init__(self) -> None:
        self.followed: list[int] = []
        self.closed = False

    def follow(self, state: SimState) -> None:
        self.followed.append(state.stamp_ns)

    def read(self, now_ns: int) -> Sequence[CameraFrame]:
        stamp = self.followed[-1] if self.followed else now_ns
        return [
            CameraFrame(camera=name, frame_id=0, exposure_ns=stamp, rgb=np.zeros((2, 2, 3), np.uint8))
            for name in ("cam_high", "cam_left_wrist")
        ]

    def close(self) -> None:
        self.closed = True


def _inbox(*stamps: int) -> Inbox:
    states = [SimState(stamp_ns=t, task="a", split="b", seed=0, reset_id=0, qpos=np.zeros(1)) for t in stamps]
    fresh = [Received(Header("sim/state", 0, i, 0, 0), state, 0, tuple) for i, state in enumerate(states)]
    return Inbox({}, fresh)


def test_the_twins_state_reaches_the_renderer_before_it_is_read() -> None:
    source = _Source()
    stage = CamerasStage(source, ("cam_high", "cam_left_wrist"), 10.0, follower=source)
    assert stage.reads == ("sim/state",)
    assert stage.writes == ("camera/cam_high", "camera/cam_left_wrist")
    assert stage.trigger == Periodic(100_000_000)
    emits = list(stage.step(50, _inbox(42)))
    assert [emit.topic for emit in emits] == ["camera/cam_high", "camera/cam_left_wrist"]
    assert all(isinstance(e.message, CameraFrame) and e.message.exposure_ns == 42 for e in emits)


def test_real_cameras_read_no_topic() -> None:
    source = _Source()
    stage = CamerasStage(source)
    assert stage.reads == ()
    assert len(list(stage.step(7, _inbox()))) == 2
    stage.request_stop()
    assert stage.stopped
    stage.close()
    assert source.closed


@pytest.mark.parametrize(("cameras", "rate_hz"), [(("cam_low",), 30.0), (("cam_high",), 0.0), (("cam_high",), np.nan)])
def test_settings_that_cannot_be_are_refused(cameras: tuple[str, ...], rate_hz: float) -> None:
    with pytest.raises(ConfigError):
        CamerasStage(_Source(), cameras, rate_hz)
