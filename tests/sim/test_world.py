"""The twin's physics: kinematics, determinism, servos, grasping, rails, and the truth."""

import math
from collections.abc import Mapping

import mujoco
import numpy as np
import pytest

from syvla.config import RigConfig
from syvla.control.kinematics import HOME_RAD, LIMITS, Base, forward, forward_tcp, hand_rotation, inverse_tcp
from syvla.errors import ConfigError, DriverError
from syvla.message import Float64
from syvla.messages import SimReset
from syvla.sim.model import TwinModel
from syvla.sim.scene import Container, FreeObject, Scene, Slide, Table, Task
from syvla.sim.world import TwinArmPlant, TwinWorld

TICK_NS = 5_000_000
Tasks = Mapping[str, Task]


def _reset(world: TwinWorld, seed: int = 0, task: str = "small", reset_id: int = 0) -> None:
    world.reset(SimReset(reset_id=reset_id, task=task, split="train", seed=seed))


class _Hand:
    """Moves one arm of a world along smooth joint paths, 200 set-points a second."""

    def __init__(self, world: TwinWorld, base: Base, plant: TwinArmPlant) -> None:
        self.world, self.base, self.plant = world, base, plant
        self.q = plant.measured()[0]
        self.width_m = 0.0
        self.now_ns = 0
        world.advance(0)

    def joints(self, x: float, y: float, z: float, yaw: float) -> Float64:
        """Joints for a grasp point in the world, the hand as upright as it can be."""
        azimuth = math.atan2(y - self.base.y_m, x - self.base.x_m)
        for tilt in np.radians(np.arange(0.0, 45.0)):
            pose = self.base.from_world([x, y, z], hand_rotation(yaw, tilt, azimuth))
            q, reachable = inverse_tcp(*pose, self.q)
            if reachable:
                return q
        raise AssertionError(f"({x}, {y}, {z}) is out of reach")

    def go(self, q: Float64, width_m: float, duration_s: float) -> None:
        start, start_width = self.q, self.width_m
        count = round(duration_s * 200)
        for i in range(1, count + 1):
            s = i / count
            blend = s**3 * (10 - 15 * s + 6 * s * s)
            self.plant.target(start + blend * (q - start), start_width + blend * (width_m - start_width))
            self.now_ns += TICK_NS
            self.world.advance(self.now_ns)
        self.q, self.width_m = q, width_m

    def to(self, x: float, y: float, z: float, yaw: float, width_m: float, duration_s: float) -> None:
        self.go(self.joints(x, y, z, yaw), width_m, duration_s)


@pytest.fixture
def world(rig: RigConfig, tasks: Tasks) -> TwinWorld:
    return TwinWorld(rig, tasks)


@pytest.fixture
def hand(world: TwinWorld, rig: RigConfig) -> _Hand:
    _reset(world)
    return _Hand(world, Base.of(rig.left), world.plant("left"))


# ---------------------------------------------------------------- kinematics


def test_the_models_hand_is_where_the_kinematics_say() -> None:
    bases = (Base(0.02, 0.3, 0.01, 0.2), Base(y_m=-0.3))
    twin = TwinModel(*bases, Scene())
    rng = np.random.default_rng(0)
    for _ in range(200):
        for start, arm, base in ((0, "left", bases[0]), (8, "right", bases[1])):
            q = rng.uniform(*LIMITS)
            twin.data.qpos[start : start + 6] = q
            mujoco.mj_kinematics(twin.model, twin.data)
            for site, pose in ((f"{arm}/flange", forward(q)), (f"{arm}/tcp", forward_tcp(q))):
                position, rotation = base.to_world(*pose)
                np.testing.assert_allclose(twin.data.site(site).xpos, position, atol=1e-9)
                np.testing.assert_allclose(twin.data.site(site).xmat.reshape(3, 3), rotation, atol=1e-9)


def test_the_gripper_is_as_wide_as_it_says() -> None:
    twin = TwinModel(Base(), Base(y_m=-0.6), Scene())
    twin.data.qpos[6:8] = 0.02
    mujoco.mj_kinematics(twin.model, twin.data)
    centres = [twin.data.geom(f"left/pad_{finger}").xpos for finger in "ab"]
    thickness = 2 * twin.model.geom("left/pad_a").size[1]
    assert np.linalg.norm(centres[0] - centres[1]) - thickness == pytest.approx(0.04)
    tcp = twin.data.site("left/tcp").xpos
    along = twin.data.site("left/tcp").xmat.reshape(3, 3)[:, 1]
    assert float((np.mean(centres, axis=0) - tcp) @ along) == pytest.approx(0.0, abs=1e-12)


# ---------------------------------------------------------------- time


def test_two_runs_are_the_same_bytes(rig: RigConfig, tasks: Tasks) -> None:
    def run(step_ns: int) -> bytes:
        world = TwinWorld(rig, tasks)
        world.advance(1_234_567)
        _reset(world, seed=3)
        hand = _Hand(world, Base.of(rig.left), world.plant("left"))
        hand.now_ns = 1_234_567
        q = hand.joints(0.33, 0.25, 0.015, 0.3 + math.pi / 2)
        world.plant("left").target(q, 0.0)  # into the cube
        for now_ns in range(1_234_567, 1_234_567 + 500_000_001, step_ns):
            world.advance(now_ns)
        return world.state(0).qpos.tobytes()

    first = run(TICK_NS)
    assert run(TICK_NS) == first
    assert run(2_500_000) == first
    assert run(100_000_000) == first


def test_time_does_not_drift_and_never_runs_back(world: TwinWorld) -> None:
    world.advance(10)
    for k in range(1, 3001):
        world.advance(10 + k * 1_000_000_000 // 3000)
    steps = round(float(world._data.time) / world._model.opt.timestep)
    assert steps == 400
    before = world.state(0).qpos.tobytes()
    world.advance(5)
    assert world.state(0).qpos.tobytes() == before


def test_a_second_laying_of_a_cached_table_is_like_the_first(rig: RigConfig, tasks: Tasks) -> None:
    worlds = [TwinWorld(rig, tasks) for _ in range(2)]
    for seed in (1, 4):  # other poses and colours
        worlds[0].advance(0)
        _reset(worlds[0], seed)
        worlds[0].advance(100_000_000)
    worlds[1].advance(0)
    for world in worlds:
        _reset(world, seed=2)
    assert worlds[0].truth(0).pose.tobytes() == worlds[1].truth(0).pose.tobytes()
    np.testing.assert_array_equal(worlds[0]._model.geom_rgba, worlds[1]._model.geom_rgba)


# ---------------------------------------------------------------- servos


@pytest.mark.parametrize("joint", range(6))
def test_the_servos_lag_less_than_40_ms(world: TwinWorld, joint: int) -> None:
    plant = world.plant("left")
    world.advance(0)
    q = np.array(HOME_RAD)
    speed = -1.5 if q[joint] > 0.5 else 1.5
    for k in range(60):
        q[joint] += speed * 0.005
        plant.target(q, 0.0)
        world.advance((k + 1) * TICK_NS)
    position, velocity, _, _ = plant.measured()
    assert velocity[joint] == pytest.approx(speed, rel=0.05)
    lag_s = (q[joint] - position[joint]) / speed
    assert 0.0 < lag_s < 0.04
    for k in range(60, 160):
        world.advance((k + 1) * TICK_NS)
    np.testing.assert_allclose(plant.measured()[0], q, atol=2e-4)


def test_the_arms_stand_still_and_their_motors_carry_them(world: TwinWorld) -> None:
    for k in range(200):
        world.advance(k * TICK_NS)
    position, velocity, effort, width = world.plant("right").measured()
    np.testing.assert_allclose(position, HOME_RAD, atol=1e-4)
    np.testing.assert_allclose(velocity, 0.0, atol=1e-4)
    assert width == pytest.approx(0.0, abs=1e-4)
    assert np.abs(effort[1:3]).max() > 0.5


def test_without_torque_an_arm_sinks_and_takes_no_command(world: TwinWorld) -> None:
    plant = world.plant("left")
    world.advance(0)
    plant.torque(False)
    plant.target(np.array(HOME_RAD), 0.07)
    for k in range(300):
        world.advance(k * TICK_NS)
    position, _, _, width = plant.measured()
    height = forward_tcp(position)[0][2]
    assert height < forward_tcp(HOME_RAD)[0][2] - 0.1
    assert width < 0.01
    np.testing.assert_allclose(world.plant("right").measured()[0], HOME_RAD, atol=1e-4)
    plant.torque(True)
    held = plant.measured()[0]
    for k in range(300, 500):
        world.advance(k * TICK_NS)
    np.testing.assert_allclose(plant.measured()[0], held, atol=0.05)


def test_torque_survives_another_table(world: TwinWorld) -> None:
    """Gains are kept in the compiled model; a cached one must not remember an arm's missing torque as its gains."""
    plant = world.plant("left")
    world.advance(0)
    _reset(world)
    plant.torque(False)
    _reset(world, task="one_ball")
    _reset(world)
    plant.torque(True)
    q = np.array(HOME_RAD) + 0.1
    plant.target(q, 0.05)
    for k in range(200):
        world.advance(k * TICK_NS)
    np.testing.assert_allclose(plant.measured()[0], q, atol=1e-3)
    assert plant.measured()[3] == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_set_point_that_is_not_finite_is_refused(world: TwinWorld, bad: float) -> None:
    plant = world.plant("left")
    with pytest.raises(DriverError, match="finite"):
        plant.target(np.array([bad, *HOME_RAD[1:]]), 0.0)
    with pytest.raises(DriverError, match="finite"):
        plant.target(np.array(HOME_RAD), bad)


def test_set_points_stop_at_the_joints_limits(world: TwinWorld) -> None:
    plant = world.plant("left")
    world.advance(0)
    plant.target(np.array([0.0, 1.05, -0.93, 0.0, 9.0, 0.0]), 9.0)
    for k in range(200):
        world.advance(k * TICK_NS)
    position, _, _, width = plant.measured()
    assert position[4] == pytest.approx(LIMITS.upper_rad[4], abs=0.01)
    assert width == pytest.approx(0.07, abs=1e-3)


# ---------------------------------------------------------------- the table


def test_a_reset_leaves_the_arms_where_they_are(world: TwinWorld) -> None:
    plant = world.plant("right")
    world.advance(0)
    plant.target(np.array(HOME_RAD) + 0.15, 0.03)
    world.advance(60_000_000)  # under way
    before = plant.measured()
    for task in ("small", "one_ball", "small"):
        _reset(world, task=task)
        after = plant.measured()
        for i in (0, 1):
            np.testing.assert_array_equal(after[i], before[i])
        assert after[3] == before[3]
    for k in range(200):
        world.advance(60_000_000 + k * TICK_NS)
    np.testing.assert_allclose(plant.measured()[0], np.array(HOME_RAD) + 0.15, atol=1e-3)


def test_resting_things_stay_where_they_are_laid(world: TwinWorld) -> None:
    _reset(world)
    laid = world.truth(0)
    world.advance(0)
    world.advance(3_000_000_000)
    np.testing.assert_allclose(world.truth(0).pose, laid.pose, atol=2e-3)


def test_the_truth_names_everything_and_asks_the_episode(world: TwinWorld) -> None:
    assert world.truth(7).names == ()
    _reset(world, seed=2, reset_id=5)
    truth = world.truth(7)
    assert truth.stamp_ns == 7
    assert truth.reset_id == 5
    assert truth.instruction == "put the cube into the tray (2)"
    assert truth.names == ("cube", "ball", "tray", "box")
    table = Table.of(truth)
    np.testing.assert_allclose(table.position_m("cube"), [0.32, 0.25, 0.02])
    assert table.yaw_rad("cube") == pytest.approx(0.3)
    np.testing.assert_allclose(table.position_m("tray")[:2], [0.30, 0.10])
    assert not truth.success


def test_an_unknown_task_split_or_arm_is_refused_with_the_choices(world: TwinWorld) -> None:
    with pytest.raises(ConfigError, match="one_ball, small"):
        _reset(world, task="large")
    with pytest.raises(ConfigError, match="train, test"):
        world.reset(SimReset(reset_id=0, task="small", split="exam", seed=0))
    with pytest.raises(ConfigError, match="left, right"):
        world.plant("middle")  # type: ignore[arg-type]


def test_the_gripper_carries_a_cube_through_shaking_into_the_tray(hand: _Hand) -> None:
    world, yaw = hand.world, 0.3 + math.pi / 2
    hand.to(0.30, 0.25, 0.10, yaw, 0.07, 0.8)
    hand.to(0.30, 0.25, 0.018, yaw, 0.07, 0.5)
    assert world.table().held_by[0] == ""
    hand.to(0.30, 0.25, 0.018, yaw, 0.028, 0.3)
    hand.to(0.30, 0.20, 0.15, yaw, 0.028, 0.7)
    assert world.table().held_by == ("left", "", "", "")
    carried = hand.q
    for k in range(6):
        swing = np.array([0.2, 0.0, 0.0, 0.2, 0.0, 0.0]) * (-1) ** k
        hand.go(carried + swing, 0.028, 0.35)
    hand.go(carried, 0.028, 0.5)
    tcp, _ = hand.base.to_world(*forward_tcp(hand.plant.measured()[0]))
    assert np.linalg.norm(world.table().position_m("cube") - tcp) < 0.006
    hand.to(0.30, 0.08, 0.12, yaw, 0.028, 0.7)
    assert world.table().inside[0] == ""  # held above the tray is not in it
    hand.to(0.30, 0.08, 0.025, yaw, 0.028, 0.5)
    hand.to(0.30, 0.08, 0.025, yaw, 0.07, 0.3)
    hand.to(0.30, 0.08, 0.12, yaw, 0.07, 0.5)
    truth = world.truth(0)
    assert truth.held_by[0] == ""
    assert truth.inside[0] == "tray"
    assert truth.success
    assert truth.progress == 1.0


def test_a_box_on_a_rail_is_pushed_along_it_only(world: TwinWorld, rig: RigConfig) -> None:
    _reset(world)
    hand = _Hand(world, Base.of(rig.right), world.plant("right"))
    start = world.table().position_m("box").copy()
    hand.to(0.17, -0.12, 0.06, math.pi / 2, 0.0, 0.8)
    hand.to(0.17, -0.12, 0.025, math.pi / 2, 0.0, 0.4)
    hand.to(0.26, -0.12, 0.025, math.pi / 2, 0.0, 0.8)
    hand.to(0.26, -0.12, 0.025, math.pi / 2, 0.0, 0.3)
    moved = world.table().position_m("box") - start
    assert 0.03 < moved[0] < 0.10
    np.testing.assert_allclose(moved[1:], 0.0, atol=1e-9)
    hand.to(0.15, -0.12, 0.025, math.pi / 2, 0.0, 0.6)
    np.testing.assert_allclose(world.table().position_m("box") - start, moved, atol=0.01)  # it stays


def test_the_fingers_cannot_go_through_the_table(hand: _Hand) -> None:
    low = hand.joints(0.35, 0.40, 0.012, math.pi / 2)
    hand.go(hand.joints(0.35, 0.40, 0.08, math.pi / 2), 0.03, 0.5)
    low[1] += 0.15  # 5 cm and more into the table
    hand.go(low, 0.03, 1.0)
    tcp, _ = hand.base.to_world(*forward_tcp(hand.plant.measured()[0]))
    assert tcp[2] > 0.005


# ---------------------------------------------------------------- descriptions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name"),
        ({"name": 'a"/><geom'}, "name"),
        ({"shape": "cone"}, "box, cylinder, sphere, capsule"),
        ({"size_m": (0.1, 0.1)}, "size_m"),
        ({"size_m": (0.1, 0.1, math.nan)}, "size_m"),
        ({"shape": "cylinder", "size_m": (0.1, 0.2, 0.1)}, "diameters"),
        ({"mass_kg": 0.0}, "mass_kg"),
        ({"position_m": (0.0, math.inf, 0.0)}, "position_m"),
    ],
)
def test_a_thing_that_cannot_be_is_refused_with_its_name(changes: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "name": "thing",
        "shape": "box",
        "size_m": (0.04, 0.04, 0.04),
        "rgba": (1, 0, 0, 1),
        "position_m": (0.3, 0.0, 0.02),
    }
    FreeObject(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        FreeObject(**{**good, **changes})  # type: ignore[arg-type]


def test_names_on_a_table_must_differ() -> None:
    tray = Container("tray", (0.3, 0.0), (0.1, 0.1), 0.02, (0, 1, 0, 1))
    with pytest.raises(ConfigError, match="differ"):
        Scene((), (tray, tray))


def test_a_layout_is_about_what_is_compiled() -> None:
    def scene(x: float, width: float, slide: Slide | None = None) -> Scene:
        return Scene((), (Container("tray", (x, 0.0), (width, 0.1), 0.02, (x, 1, 0, 1), slide=slide),))

    assert scene(0.3, 0.1).layout == scene(0.2, 0.1).layout
    assert scene(0.3, 0.1).layout != scene(0.3, 0.2).layout
    assert scene(0.3, 0.1).layout != scene(0.3, 0.1, Slide("y", (0.0, 0.1))).layout


def test_a_can_that_was_knocked_over_does_not_roll_for_ever() -> None:
    """With sliding friction alone one left the table at a steady 15 cm/s, and the episode could not be saved."""
    can = FreeObject("can", "cylinder", (0.036, 0.036, 0.048), (0.1, 0.5, 0.2, 1.0), (0.3, 0.0, 0.018), 0.0)
    twin = TwinModel(Base(0.0, 0.3, 0.0), Base(0.0, -0.3, 0.0), Scene((can,), ()))
    place = mujoco.mj_name2id(twin.model, mujoco.mjtObj.mjOBJ_BODY, "thing/can")
    qpos, dof = (row[twin.model.body_jntadr[place]] for row in (twin.model.jnt_qposadr, twin.model.jnt_dofadr))
    twin.data.qpos[qpos + 3 : qpos + 7] = (math.cos(math.pi / 4), math.sin(math.pi / 4), 0.0, 0.0)  # its axis along y
    twin.data.qvel[dof : dof + 6] = (0.15, 0.0, 0.0, 0.0, 0.0, 0.15 / 0.018)  # rolling along x; spin in its own frame
    for _ in range(round(2.0 / twin.model.opt.timestep)):
        mujoco.mj_step(twin.model, twin.data)
    assert abs(twin.data.qvel[dof : dof + 3]).max() < 0.005
    assert twin.data.qpos[qpos] < 0.4
