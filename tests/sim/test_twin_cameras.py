"""The twin's cameras: what they send, when, and that they see what happens."""

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import pytest

from syvla.config import RigConfig
from syvla.errors import ConfigError, MessageError
from syvla.messages import SimReset, SimState
from syvla.sim.cameras import TwinCameras
from syvla.sim.scene import Task
from syvla.sim.world import TwinWorld
from syvla.topics import CAMERAS


@pytest.fixture
def world(rig: RigConfig, tasks: Mapping[str, Task]) -> TwinWorld:
    world = TwinWorld(rig, tasks)
    world.reset(SimReset(reset_id=0, task="small", split="train", seed=0))
    return world


@pytest.fixture
def cameras(rig: RigConfig, tasks: Mapping[str, Task]) -> Iterator[TwinCameras]:
    cameras = TwinCameras(rig, tasks)
    yield cameras
    cameras.close()


def _shown(cameras: TwinCameras, state: SimState) -> dict[str, np.ndarray]:
    cameras.follow(state)
    return {frame.camera: frame.rgb.astype(int) for frame in cameras.read(0)}


def test_each_state_is_seen_once_by_every_camera(world: TwinWorld, cameras: TwinCameras) -> None:
    assert cameras.read(0) == ()
    for frame_id in range(2):
        cameras.follow(world.state(100 + frame_id))
        frames = cameras.read(999)
        assert tuple(frame.camera for frame in frames) == CAMERAS
        for frame in frames:
            assert frame.frame_id == frame_id
            assert frame.exposure_ns == 100 + frame_id
            assert frame.rgb.shape == (64, 96, 3)
            assert frame.rgb.dtype == np.uint8
            assert frame.rgb.std() > 10
        assert cameras.read(1000) == ()


def test_a_late_camera_shows_an_old_state_with_the_stamp_of_now(
    rig: RigConfig, tasks: Mapping[str, Task], world: TwinWorld
) -> None:
    late = msgspec.structs.replace(rig.cameras, delay_s={"cam_high": 0.05})
    cameras = TwinCameras(msgspec.structs.replace(rig, cameras=late), tasks, ("cam_high", "cam_left_wrist"))
    try:
        seen = []
        for ms in range(0, 150, 25):
            cameras.follow(world.state(ms * 1_000_000))
            seen.append([(f.camera, f.frame_id, f.exposure_ns // 1_000_000) for f in cameras.read(ms * 1_000_000)])
        assert seen[1] == [("cam_left_wrist", 1, 25)]
        assert seen[2] == [("cam_high", 0, 50), ("cam_left_wrist", 2, 50)]
        assert seen[5] == [("cam_high", 3, 125), ("cam_left_wrist", 5, 125)]
    finally:
        cameras.close()


def test_the_same_state_gives_the_same_pixels(world: TwinWorld, cameras: TwinCameras) -> None:
    first, second = _shown(cameras, world.state(0)), _shown(cameras, world.state(0))
    for camera in CAMERAS:
        np.testing.assert_array_equal(first[camera], second[camera])


def test_the_cameras_see_what_moves(world: TwinWorld, cameras: TwinCameras) -> None:
    state = world.state(0)
    before = _shown(cameras, state)
    qpos = state.qpos.copy()
    qpos[6:8] = 0.03  # the left gripper opens
    opened = _shown(cameras, msgspec.structs.replace(state, qpos=qpos))
    assert np.abs(opened["cam_left_wrist"] - before["cam_left_wrist"]).max() > 50
    np.testing.assert_array_equal(opened["cam_right_wrist"], before["cam_right_wrist"])
    qpos = state.qpos.copy()
    qpos[16:18] += (0.05, -0.05)  # the cube
    moved = _shown(cameras, msgspec.structs.replace(state, qpos=qpos))
    assert np.abs(moved["cam_high"] - before["cam_high"]).max() > 50


def test_another_seed_or_task_is_laid_anew(world: TwinWorld, cameras: TwinCameras) -> None:
    red = _shown(cameras, world.state(0))["cam_high"]
    world.reset(SimReset(reset_id=1, task="small", split="train", seed=5))
    blue = _shown(cameras, world.state(0))["cam_high"]  # the same place, another colour
    is_red = (red[..., 0] > red[..., 2] + 110) & (red[..., 0] > red[..., 1] + 110)  # more than the mat is
    assert is_red.sum() >= 4
    assert (blue[is_red][:, 2] > blue[is_red][:, 0]).mean() > 0.5
    world.reset(SimReset(reset_id=2, task="one_ball", split="train", seed=0))
    assert np.abs(_shown(cameras, world.state(0))["cam_high"] - blue).max() > 50


def test_what_cannot_be_rendered_is_refused(world: TwinWorld, cameras: TwinCameras, rig: RigConfig) -> None:
    state = world.state(0)
    with pytest.raises(MessageError, match="qpos must have shape"):
        cameras.follow(msgspec.structs.replace(state, qpos=np.zeros(5)))
    with pytest.raises(ConfigError, match="no task"):
        cameras.follow(msgspec.structs.replace(state, task="large"))
    with pytest.raises(ConfigError, match="cam_high"):
        TwinCameras(rig, {}, ("cam_low",))
