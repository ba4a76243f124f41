"""Where the frames of a run come from: real cameras, the twin's under their SDK, or the renderer alone."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from syvla.config import CamerasConfig, RigConfig, RunConfig
from syvla.errors import ConfigError, DriverError
from syvla.messages import CameraFrame, CamerasState, SimReset
from syvla.protocols import Header, Inbox, Received, Stage
from syvla.rig import build_stage, lockstep_host
from syvla.runs import RunFolder, load_rig, realtime_run
from syvla.sim.tasks import ALL_TASKS
from syvla.sim.world import TwinWorld
from syvla.topics import CAMERAS

SMALL = CamerasConfig(width=96, height=64, silent_s=1.0, frozen_frames=0)
TWIN = msgspec.structs.replace(load_rig("twin"), cameras=SMALL)
RENDERING = msgspec.structs.replace(TWIN, cameras=msgspec.structs.replace(SMALL, source="render"))
MS = 1_000_000


@pytest.fixture
def no_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendor's SDK cannot be imported."""
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)


def cameras_of(rig: RigConfig) -> Stage:
    return build_stage("cameras", RunConfig(rig=rig), RunFolder(Path()))


@pytest.fixture(params=[TWIN, RENDERING], ids=["realsense", "render"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param is TWIN:
        pytest.importorskip("pyrealsense2", exc_type=ImportError)
    stage = cameras_of(request.param)
    yield stage
    stage.close()


def test_the_twins_frames_are_its_states_pictures_by_either_way(stage: Stage) -> None:
    world = TwinWorld(TWIN, ALL_TASKS)
    world.reset(SimReset(reset_id=0, task="snack_loading", split="id", seed=0))
    expected = _rendered(world)
    for now_ns in (10**9, 10**9 + 70 * MS):
        state = world.state(now_ns - 2 * MS)
        inbox = Inbox({}, [Received(Header("sim/state", 0, 0, 0, 0), state, now_ns, tuple)])
        *frames, last = [emit.message for emit in stage.step(now_ns, inbox)]
        assert isinstance(last, CamerasState)
        assert last.faults == ()
        assert [frame.camera for frame in frames if isinstance(frame, CameraFrame)] == list(CAMERAS)
        for frame in frames:
            assert isinstance(frame, CameraFrame)
            np.testing.assert_array_equal(frame.rgb, expected[frame.camera])
            assert 0 <= now_ns - frame.exposure_ns <= 2 * MS
    world.close()


def _rendered(world: TwinWorld) -> Mapping[str, np.ndarray]:
    from syvla.sim.cameras import TwinCameras

    cameras = TwinCameras(TWIN, ALL_TASKS)
    cameras.follow(world.state(0))
    shown = {frame.camera: frame.rgb for frame in cameras.read(0)}
    cameras.close()
    return shown


def test_a_robot_without_serial_numbers_is_not_given_any_camera() -> None:
    pytest.importorskip("pyrealsense2", exc_type=ImportError)
    with pytest.raises(ConfigError, match=r"cameras\.serials is empty.*connected"):
        cameras_of(load_rig("cobot_magic"))


def test_a_robots_camera_that_is_not_there_is_named() -> None:
    pytest.importorskip("pyrealsense2", exc_type=ImportError)
    rig = load_rig("cobot_magic")
    bound = msgspec.structs.replace(rig.cameras, serials={"cam_high": "no such serial"})
    with pytest.raises(DriverError, match=r"cam_high .*no such serial"):
        cameras_of(msgspec.structs.replace(rig, cameras=bound))


@pytest.mark.usefixtures("no_sdk")
def test_without_the_sdk_what_needs_it_says_what_to_install(tmp_path: Path) -> None:
    rig_file = tmp_path / "rig.toml"
    rig_file.write_text('name = "r"\nkind = "twin"\n[left]\n[right]\n')
    for attempt in (
        lambda: cameras_of(TWIN),
        lambda: cameras_of(load_rig("cobot_magic")),
        lambda: realtime_run(str(rig_file), 0.0, 0.0),
    ):
        with pytest.raises(ConfigError, match=r"pip install 'syvla\[robot\]', and Debian's libusb-1\.0-0"):
            attempt()


@pytest.mark.usefixtures("no_sdk")
def test_without_the_sdk_a_twin_still_renders_and_lockstep_does_anyway() -> None:
    cameras_of(RENDERING).close()
    host = lockstep_host(RunConfig(rig=TWIN), cameras=("cam_high",))
    host.run_until(100 * MS)
    host.stop()
