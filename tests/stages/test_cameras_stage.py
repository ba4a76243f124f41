"""The cameras' stage: frames go out under their topics, states reach a renderer first."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from camera_bench import MS, PluggedCameras

from syvla.config import CamerasConfig
from syvla.errors import ConfigError
from syvla.messages import CameraFrame, CamerasState, SimState
from syvla.protocols import Header, Inbox, Periodic, Received
from syvla.stages.cameras import CamerasStage
from syvla.topics import CAMERAS

TWO = ("cam_high", "cam_left_wrist")
TEN_HZ = CamerasConfig(rate_hz=10.0)


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
    stage = CamerasStage(source, TEN_HZ, TWO, TWO, follower=source)
    assert stage.reads == ("sim/state",)
    assert stage.writes == ("camera/cam_high", "camera/cam_left_wrist", "cameras")
    assert stage.trigger == Periodic(100_000_000)
    emits = list(stage.step(50, _inbox(42)))
    assert [emit.topic for emit in emits] == ["camera/cam_high", "camera/cam_left_wrist", "cameras"]
    assert all(isinstance(e.message, CameraFrame) and e.message.exposure_ns == 42 for e in emits[:2])


def test_a_picture_is_stamped_with_the_instant_that_it_shows() -> None:
    source = _Source()
    config = msgspec.structs.replace(TEN_HZ, delay_s={"cam_left_wrist": 0.02})
    stage = CamerasStage(source, config, TWO, TWO, follower=source)
    frames = [emit.message for emit in stage.step(50_000_000, _inbox(42_000_000))][:2]
    stamps = {frame.camera: frame.exposure_ns for frame in frames if isinstance(frame, CameraFrame)}
    assert stamps == {"cam_high": 42_000_000, "cam_left_wrist": 22_000_000}


def test_real_cameras_read_no_topic() -> None:
    source = _Source()
    stage = CamerasStage(source, CamerasConfig(), poll_hz=200.0)
    assert stage.reads == ()
    assert stage.trigger == Periodic(5_000_000)
    assert len(list(stage.step(7, _inbox()))) == 3
    stage.request_stop()
    assert stage.stopped
    stage.close()
    assert source.closed


@pytest.mark.parametrize(
    ("cameras", "watched", "poll_hz"),
    [
        (("cam_low",), ("cam_low",), 30.0),
        (("cam_high",), ("cam_left_wrist",), 30.0),
        (TWO, TWO, 0.0),
        (TWO, TWO, float("nan")),
    ],
)
def test_settings_that_cannot_be_are_refused(
    cameras: tuple[str, ...], watched: tuple[str, ...], poll_hz: float
) -> None:
    with pytest.raises(ConfigError, match=r"cam_high|poll_hz"):
        CamerasStage(_Source(), CamerasConfig(), cameras, watched, poll_hz)


class _Lookout:
    """A cameras' stage at 200 Hz under a clock that the test turns."""

    def __init__(self, source: PluggedCameras, *watched: str) -> None:
        self.stage = CamerasStage(source, CamerasConfig(), CAMERAS, watched, poll_hz=200.0)
        self.now_ns = 0
        self.states: list[CamerasState] = []

    def run(self, seconds: float) -> set[tuple[str, str]]:
        """What is wrong in the end."""
        for _ in range(round(seconds * 200)):
            self.now_ns += 5 * MS
            emits = self.stage.step(self.now_ns, _inbox())
            self.states += [emit.message for emit in emits if isinstance(emit.message, CamerasState)]
        return {(fault.camera, fault.what) for fault in self.states[-1].faults}

    def until_fault_s(self) -> float:
        """How long it takes until something is wrong."""
        start_ns = self.now_ns
        while not self.run(0.005):
            assert self.now_ns < start_ns + 10**9, "nothing was noticed"
        return (self.now_ns - start_ns) * 1e-9


@pytest.mark.parametrize("phase", range(0, 35, 5))
def test_an_unplugged_camera_is_said_within_200_ms_and_that_it_is_back(phase: int) -> None:
    source = PluggedCameras(*CAMERAS)
    lookout = _Lookout(source, *CAMERAS)
    assert lookout.run(1.0 + phase * 1e-3) == set()
    source.cameras.remove("cam_left_wrist")
    assert lookout.until_fault_s() < 0.19
    assert lookout.run(0.5) == {("cam_left_wrist", "lost")}
    source.cameras.append("cam_left_wrist")
    assert lookout.run(0.1) == set()


def test_a_frozen_camera_is_said_within_400_ms_and_that_it_moves_again() -> None:
    source = PluggedCameras(*CAMERAS)
    lookout = _Lookout(source, *CAMERAS)
    lookout.run(1.0)
    source.frozen.add("cam_high")
    assert lookout.until_fault_s() < 0.39
    assert lookout.run(0.1) == {("cam_high", "frozen")}
    source.frozen.clear()
    assert lookout.run(0.1) == set()


def test_a_camera_that_the_policy_does_not_look_at_is_not_missed() -> None:
    source = PluggedCameras(*CAMERAS)
    lookout = _Lookout(source, "cam_high")
    lookout.run(1.0)
    source.cameras.remove("cam_left_wrist")
    assert lookout.run(1.0) == set()


def test_the_state_is_said_at_20_hz_and_at_once_when_it_changes() -> None:
    source = PluggedCameras(*CAMERAS)
    lookout = _Lookout(source, *CAMERAS)
    lookout.run(1.0)
    stamps = [state.stamp_ns for state in lookout.states]
    assert max(np.diff(stamps)) == 50 * MS
    source.cameras.clear()
    lookout.until_fault_s()
    assert lookout.states[-1].stamp_ns == lookout.now_ns
