"""Cameras that are lost or frozen hold the arms, and a resume waits until they see again.

Each test of a rule fails when the rule is taken out.
"""

import pytest
from camera_bench import MS, PluggedCameras
from robot_bench import TICK, Bench

from syvla.config import CamerasConfig, IntentPolicy
from syvla.messages import CameraFault, CamerasState, Mode
from syvla.protocols import Inbox
from syvla.stages.cameras import CamerasStage
from syvla.topics import CAMERAS

SILENT_S = 0.15  # the rig's default


def said(bench: Bench, *faults: CameraFault) -> CamerasState:
    return CamerasState(stamp_ns=bench.now_ns, faults=faults)


@pytest.mark.parametrize("what", ["lost", "frozen"])
def test_a_camera_that_does_not_see_holds_at_once_and_is_named(what: str) -> None:
    bench = Bench().move()
    bench.tick(said(bench))
    assert bench.mode() is Mode.ENABLED
    fault = CameraFault(camera="cam_left_wrist", what=what, for_s=0.15)  # type: ignore[arg-type]
    bench.tick(said(bench, fault))
    assert bench.mode() is Mode.HOLD
    (reason,) = [r for r in bench.stage.gate.reasons if r.code == f"camera_{what}"]
    assert "cam_left_wrist" in reason.detail
    bench.assert_holds(f"camera_{what}")


def test_two_cameras_that_fail_together_are_both_named() -> None:
    bench = Bench().move()
    lost = [CameraFault(camera=name, what="lost", for_s=0.2) for name in ("cam_high", "cam_right_wrist")]
    bench.tick(said(bench, *lost))
    (reason,) = [r for r in bench.stage.gate.reasons if r.code == "camera_lost"]
    assert "cam_high" in reason.detail
    assert "cam_right_wrist" in reason.detail


def test_resume_is_refused_until_the_camera_sees_again_and_nothing_resumes_by_itself() -> None:
    bench = Bench().move()
    lost = CameraFault(camera="cam_high", what="lost", for_s=0.2)
    for _ in range(40):
        bench.tick(said(bench, lost))
    bench.tick(said(bench, lost), bench.operator("resume"))
    assert bench.mode() is Mode.HOLD
    assert "resume_refused" in bench.codes
    for _ in range(40):
        bench.tick(said(bench))
    assert bench.mode() is Mode.HOLD
    assert "camera_lost" in bench.codes
    bench.tick(said(bench), bench.operator("resume"))
    assert bench.mode() is Mode.ENABLED
    assert "camera_lost" not in bench.codes


def test_a_resume_in_the_tick_that_brings_the_fault_is_refused() -> None:
    bench = Bench().move()
    bench.tick(bench.operator("hold"))
    bench.run(0.2)
    lost = CameraFault(camera="cam_high", what="lost", for_s=0.2)
    bench.tick(bench.operator("resume"), said(bench, lost))
    assert bench.mode() is Mode.HOLD


def test_arms_are_not_enabled_while_a_camera_does_not_see() -> None:
    bench = Bench()
    bench.tick(said(bench, CameraFault(camera="cam_high", what="lost", for_s=0.0)))
    bench.tick(bench.operator("enable"))
    assert bench.mode() is Mode.DISABLED
    assert "camera_lost" in bench.codes
    bench.tick(said(bench))
    assert bench.mode() is Mode.ENABLED


def test_a_cameras_process_that_falls_silent_holds_whatever_its_last_stamp_was() -> None:
    bench = Bench().move()
    ahead = CamerasState(stamp_ns=bench.now_ns + 3600 * 10**9, faults=())
    bench.tick(ahead)
    for _ in range(round(SILENT_S * 1e9) // TICK):
        bench.tick()
        assert bench.mode() is Mode.ENABLED
    bench.tick()
    assert bench.mode() is Mode.HOLD
    bench.assert_holds("camera_lost")
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.HOLD


def test_cameras_that_never_spoke_are_not_missed() -> None:
    """The twin can run without cameras."""
    bench = Bench().move()
    bench.run(0.3)
    assert bench.mode() is Mode.ENABLED


@pytest.mark.parametrize(("fault", "limit_ms"), [("unplugged", 200), ("frozen", 400)])
@pytest.mark.parametrize("phase", range(0, 7, 2))
def test_from_the_fault_of_a_camera_to_the_hold(fault: str, limit_ms: int, phase: int) -> None:
    """The cameras' stage at 200 Hz; the robot hears of it a tick later. The fault comes anywhere between two frames."""
    bench = Bench(intent=IntentPolicy(time_to_live_s=5.0)).move()  # the intent is not what holds here
    source = PluggedCameras(*CAMERAS)
    stage = CamerasStage(source, CamerasConfig(), poll_hz=200.0)

    def tick() -> None:
        emits = list(stage.step(bench.now_ns, Inbox({}, ())))
        bench.tick(*[emit.message for emit in emits if isinstance(emit.message, CamerasState)])

    for _ in range(60 + phase):
        tick()
    assert bench.mode() is Mode.ENABLED
    if fault == "unplugged":
        source.cameras.remove("cam_left_wrist")
    else:
        source.frozen.add("cam_left_wrist")
    fault_ns = bench.now_ns
    while bench.mode() is Mode.ENABLED:
        tick()
        assert bench.now_ns - fault_ns <= limit_ms * MS
    bench.assert_holds("camera_lost" if fault == "unplugged" else "camera_frozen")
