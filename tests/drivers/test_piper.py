"""The Piper driver through the vendor's SDK, over the simulated bus, against the emulated arm.

Below the emulator stands a first-order plant. All of it runs in one thread under made-up instants: a datagram
on the loopback device has arrived when it has been sent.
"""

import math
import struct
import threading
import time
from collections.abc import Iterator

import can
import numpy as np
import pytest
from piper_sdk import C_PiperInterface_V2

from syvla.config import ArmConfig
from syvla.control.kinematics import forward
from syvla.drivers.piper import PiperArm
from syvla.drivers.piper_emulator import DESCENT_RAD_S, FIRMWARE_VERSION, EmulatorFaults, PiperEmulator
from syvla.drivers.piper_protocol import JOINT_FEEDBACK, JOINT_MAX, JOINT_MIN, RAD_PER_UNIT
from syvla.drivers.simcan import FRAME, free_channels
from syvla.errors import ConfigError, DriverError
from syvla.message import Float64
from syvla.messages import ArmName, ArmState

TICK_NS = 5_000_000
UNIT = RAD_PER_UNIT  # 0.001 deg
TARGET = np.array([0.3, 1.1, -0.9, -0.4, 0.5, -1.2])


class Plant:
    """First-order joints: they close half of the gap to the set-point in a tick."""

    def __init__(self) -> None:
        self.position = np.array([0.1, 0.2, -0.3, 0.0, 0.1, -0.1])
        self.velocity = np.zeros(6)
        self.effort = np.array([1.0, -2.0, 3.0, -0.4, 0.5, 0.0])
        self.width = 0.01
        self.has_torque = False
        self._target, self._target_width = self.position.copy(), self.width

    def measured(self) -> tuple[Float64, Float64, Float64, float]:
        """Position, velocity, effort, gripper width."""
        return self.position, self.velocity, self.effort, self.width

    def target(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Set-points."""
        self._target, self._target_width = position_rad, gripper_width_m

    def torque(self, on: bool) -> None:
        """Switch the servos."""
        self.has_torque = on

    def step(self) -> None:
        """Let 5 ms pass."""
        if self.has_torque:
            step = 0.5 * (self._target - self.position)
            self.velocity = step / (TICK_NS * 1e-9)
            self.position = self.position + step
            self.width += 0.5 * (self._target_width - self.width)


class Rig:
    """One arm: driver, bus, emulator and plant."""

    def __init__(self, arm: ArmName = "left", faults: EmulatorFaults | None = None) -> None:
        (channel,) = free_channels(arm)
        self.plant = Plant()
        self.emulator = PiperEmulator(arm, self.plant, channel, faults)
        self.faults = self.emulator.faults
        self.driver = PiperArm(arm, ArmConfig(can_interface="simcan", can_channel=channel))
        self.now_ns = 7_000_000_000
        self.driver.open()

    def tick(self, count: int = 1) -> ArmState | None:
        """Let ``count`` periods of 5 ms pass; the newest state."""
        state = None
        for _ in range(count):
            self.emulator.receive(self.now_ns)
            self.plant.step()
            self.emulator.send(self.now_ns)
            self.now_ns += TICK_NS
            state = self.driver.read(self.now_ns)
        return state

    def enable(self, ticks: int = 400) -> int:
        """Tick until the arm is enabled; how many ticks it took."""
        for i in range(ticks):
            if self.driver.enable():
                return i
            self.tick()
        pytest.fail(f"not enabled after {ticks} ticks")

    def follow(self, position: Float64, width: float, ticks: int = 40) -> ArmState:
        """Command one set-point for a while."""
        for _ in range(ticks):
            self.driver.command(position, width)
            state = self.tick()
        assert state is not None
        return state

    def state(self, ticks: int = 10) -> ArmState:
        """The state after ``ticks`` periods."""
        state = self.tick(ticks)
        assert state is not None
        return state

    def close(self) -> None:
        """Leave the bus at both ends."""
        self.driver.close()
        self.emulator.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


# ---------------------------------------------------------------- enabling


def test_an_arm_that_has_not_spoken_is_not_asked(rig: Rig) -> None:
    rig.faults.silent = True
    for _ in range(20):
        assert not rig.driver.enable()
        rig.tick()
    assert rig.driver.read(rig.now_ns) is None
    rig.faults.silent = False
    rig.tick(10)
    assert not rig.emulator.enabled


def test_enabling_gives_torque_and_moves_nothing(rig: Rig) -> None:
    before = rig.plant.position.copy()
    state = rig.state()
    assert not state.enabled
    rig.enable()
    state = rig.state()
    assert state.enabled
    assert state.faults == ()
    assert rig.plant.has_torque
    np.testing.assert_allclose(rig.plant.position, before, atol=UNIT)
    assert rig.plant.width == pytest.approx(0.01, abs=1e-6)


def test_a_slow_arm_is_asked_until_it_has_torque() -> None:
    rig = Rig(faults=EmulatorFaults(enable_requests=30, enable_delay_s=0.5))
    try:
        assert rig.enable() >= 100  # 0.5 s
        assert rig.state().enabled
    finally:
        rig.close()


def test_an_arm_whose_joint_does_not_take_torque_is_not_enabled(rig: Rig) -> None:
    rig.faults.disabled_joints = (4,)
    rig.tick(20)
    for _ in range(50):
        assert not rig.driver.enable()
        rig.tick()
    assert not rig.state().enabled


def test_after_a_reset_the_arm_is_enabled_twice_and_gets_its_mode_again(rig: Rig) -> None:
    rig.enable()
    rig.driver._sdk.ResetPiper()
    state = rig.state()
    assert not state.enabled
    assert not rig.plant.has_torque
    assert state.faults == ("control_mode_standby",)
    assert rig.enable() >= 2
    state = rig.follow(TARGET, 0.03)
    assert state.faults == ()
    np.testing.assert_allclose(state.position_rad, TARGET, atol=UNIT)


def test_torque_that_was_on_before_is_no_proof_that_it_is_on(rig: Rig) -> None:
    """The SDK answers from the last status it heard, which may be older than a reset or a pulled cable."""
    rig.enable()
    rig.state()
    rig.driver._sdk.ResetPiper()
    rig.faults.silent = True
    for _ in range(50):
        assert not rig.driver.enable()
        rig.tick()


def test_a_stop_sinks_damped_with_torque_on(rig: Rig) -> None:
    rig.enable()
    rig.follow(TARGET, 0.03)
    start = rig.plant.position.copy()
    rig.driver._sdk.EmergencyStop(1)
    state = rig.state(100)
    sunk = np.abs(rig.plant.position - start)
    assert state.faults[0] == "arm_emergency_stop"
    assert rig.plant.has_torque
    assert 0.5 * 0.5 * DESCENT_RAD_S < sunk.max() <= 0.5 * DESCENT_RAD_S * 1.01
    before = rig.plant.position.copy()
    rig.follow(start, 0.03, ticks=20)  # a stopped arm takes no set-points
    assert np.abs(rig.plant.position).sum() < np.abs(before).sum()


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("seed", range(5))
def test_a_set_point_arrives_within_a_thousandth_of_a_degree(rig: Rig, seed: int) -> None:
    position = np.random.default_rng(seed).uniform(JOINT_MIN, JOINT_MAX) * UNIT
    rig.enable()
    state = rig.follow(position, 0.07 * seed / 4)
    np.testing.assert_allclose(state.position_rad, position, atol=1.01 * UNIT, rtol=0)
    np.testing.assert_allclose(rig.plant.position, position, atol=0.51 * UNIT, rtol=0)
    assert state.gripper_width_m == pytest.approx(0.07 * seed / 4, abs=1.01e-6)
    assert state.faults == ()


def test_every_command_sends_the_mode_again(rig: Rig) -> None:
    rig.enable()
    rig.follow(TARGET, 0.03)
    rig.driver._sdk.ModeCtrl(0x00, 0x00, 0, 0x00)
    assert rig.state().faults == ("control_mode_standby",)
    state = rig.follow(0.5 * TARGET, 0.03)
    assert state.faults == ()
    np.testing.assert_allclose(state.position_rad, 0.5 * TARGET, atol=UNIT)


def test_velocity_and_effort_are_si_units(rig: Rig) -> None:
    rig.enable()
    rig.driver.command(rig.plant.position + 0.02, 0.01)
    state = rig.state(1)
    np.testing.assert_allclose(state.velocity_rad_s, rig.plant.velocity, atol=0.001)
    np.testing.assert_allclose(state.velocity_rad_s, 2.0, atol=0.01)
    np.testing.assert_allclose(state.effort_nm, rig.plant.effort, atol=0.0012)


def test_a_command_before_torque_is_refused(rig: Rig) -> None:
    rig.tick(10)
    with pytest.raises(DriverError, match="before enable"):
        rig.driver.command(rig.plant.position, 0.01)


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_joint_beyond_its_limit_is_refused(rig: Rig, joint: int, sign: int) -> None:
    rig.enable()
    limit = JOINT_MIN[joint] if sign < 0 else JOINT_MAX[joint]
    position = TARGET.copy()
    position[joint] = limit * UNIT
    rig.driver.command(position, 0.03)
    position[joint] = (limit + sign) * UNIT
    with pytest.raises(DriverError, match=f"joint {joint + 1} set to"):
        rig.driver.command(position, 0.03)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("field", range(7))
def test_what_is_not_a_set_point_is_refused_and_not_sent(rig: Rig, value: float, field: int) -> None:
    rig.enable()
    rig.follow(TARGET, 0.03)
    position = TARGET.copy()
    if field < 6:
        position[field] = value
    with pytest.raises(DriverError, match=r"set to|finite"):
        rig.driver.command(position, value if field == 6 else 0.03)
    np.testing.assert_allclose(rig.state().position_rad, TARGET, atol=UNIT)


@pytest.mark.parametrize("width", [-2e-6, 0.070002])
def test_a_gripper_width_beyond_its_range_is_refused(rig: Rig, width: float) -> None:
    rig.enable()
    with pytest.raises(DriverError, match="gripper set to"):
        rig.driver.command(TARGET, width)


def test_the_wrong_number_of_joints_is_refused(rig: Rig) -> None:
    rig.enable()
    with pytest.raises(DriverError, match="six finite joints"):
        rig.driver.command(np.zeros(7), 0.0)


def test_each_motors_own_limits_are_asked_for_and_intersected(rig: Rig) -> None:
    """The SDK's getter for all motors reports motor 6 for each; the limits must be each motor's own."""
    rig.enable()
    rig.tick()
    assert rig.driver.limits_known
    lower, upper = rig.driver.position_limits_rad
    np.testing.assert_allclose(lower, np.array(JOINT_MIN) * UNIT)
    np.testing.assert_allclose(upper, np.array(JOINT_MAX) * UNIT)
    answers = ((6, -1000, 1000), (2, -100, 2500), (4, 0, 0))  # narrower; wider; a motor that has none
    for motor, lowest, highest in answers:
        rig.emulator._bus.send(FRAME.pack(0x473, 8, struct.pack("!BhhHx", motor, highest, lowest, 3000)))
    rig.tick()
    lower, upper = rig.driver.position_limits_rad
    assert (math.degrees(lower[5]), math.degrees(upper[5])) == pytest.approx((-100, 100))
    assert (math.degrees(lower[1]), math.degrees(upper[1])) == pytest.approx((0, 180))
    assert (math.degrees(lower[3]), math.degrees(upper[3])) == pytest.approx((-100, 100))
    with pytest.raises(DriverError, match="joint 6"):
        rig.driver.command(np.radians([0, 90, -90, 0, 0, 110]), 0.03)


def test_a_device_that_is_gone_makes_a_command_fail(rig: Rig) -> None:
    rig.enable()
    rig.emulator.close()
    rig.emulator = PiperEmulator("left", rig.plant, free_channels("other")[0])
    with pytest.raises(DriverError, match=r"frame 0x15\d was not sent"):
        rig.follow(TARGET, 0.03)


def test_a_whole_session_sends_no_stop_no_reset_and_no_disable() -> None:
    rig = Rig()
    sent: list[tuple[int, bytes]] = []
    receive = rig.emulator._bus.receive

    def spy() -> list[tuple[int, bytes]]:
        frames = receive()
        sent.extend(frames)
        return frames

    rig.emulator._bus.receive = spy  # type: ignore[method-assign]
    rig.enable()
    rig.follow(TARGET, 0.03)
    rig.faults.arm_status = 0x07
    rig.follow(TARGET, 0.03)
    rig.driver.close()
    rig.emulator.receive(rig.now_ns)
    assert rig.emulator.enabled
    assert rig.plant.has_torque
    assert {identifier for identifier, _ in sent} == {0x151, 0x155, 0x156, 0x157, 0x159, 0x471, 0x472}
    assert {data[:2] for identifier, data in sent if identifier == 0x471} == {bytes((7, 2))}
    assert {data[:4] for identifier, data in sent if identifier == 0x151} == {bytes((1, 1, 100, 0))}
    rig.emulator.close()


# ---------------------------------------------------------------- feedback and its age


def test_the_stamp_stands_still_while_the_arm_is_silent(rig: Rig) -> None:
    state = rig.state()
    assert 0 <= rig.now_ns - state.measured_ns <= TICK_NS
    rig.faults.silent = True
    silent = rig.state(100)
    assert silent.measured_ns == state.measured_ns
    assert rig.now_ns - silent.measured_ns >= 100 * TICK_NS
    rig.faults.silent = False
    assert rig.now_ns - rig.state(1).measured_ns <= 2 * TICK_NS


def test_frames_that_say_the_same_again_are_feedback_but_not_read_again(rig: Rig) -> None:
    """The SDK tries a frame as every kind there is, which was nearly half of what the robot process did."""
    state = rig.state()
    parse = rig.driver._sdk.ParseCANFrame
    parsed: list[int] = []

    def note(frame: can.Message) -> None:
        parsed.append(frame.arbitration_id)
        parse(frame)

    rig.driver._sdk.ParseCANFrame = note
    try:
        still = rig.state(20)
        assert parsed == []
        assert 0 <= rig.now_ns - still.measured_ns <= TICK_NS, "it is alive all the same"
        rig.plant.position = rig.plant.position + np.array([0.0, 0.01, 0.0, 0.0, 0.0, 0.0])
        moved = rig.state(1)
    finally:
        del rig.driver._sdk.ParseCANFrame
    assert JOINT_FEEDBACK[0] in parsed
    assert JOINT_FEEDBACK[1] not in parsed
    assert moved.position_rad[1] - state.position_rad[1] == pytest.approx(0.01, abs=2 * UNIT)


def test_one_missing_joint_frame_ages_the_whole_state(rig: Rig) -> None:
    """Joints arrive in three frames; two of them must not hide that the third has stopped."""
    state = rig.state()
    send = rig.emulator._bus.send

    def without_joints_34(burst: bytes) -> bool:
        frames = (burst[i : i + FRAME.size] for i in range(0, len(burst), FRAME.size))
        return send(b"".join(frame for frame in frames if frame[2:4] != b"\x02\xa6"))

    rig.emulator._bus.send = without_joints_34  # type: ignore[method-assign]
    assert rig.state(40).measured_ns == state.measured_ns


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_step_of_the_wall_clock_moves_no_stamp(rig: Rig, step_s: float) -> None:
    rig.state()
    rig.driver._wall_clock_s = lambda: time.time() + step_s
    before_ns = rig.now_ns
    state = rig.state(1)
    assert before_ns <= state.measured_ns <= rig.now_ns


def test_after_a_long_stall_the_newest_feedback_counts(rig: Rig) -> None:
    rig.enable()
    rig.state()
    for i in range(100):
        rig.plant.position = np.full(6, i * 1e-3) * [1, 1, -1, 1, 1, 1]
        rig.emulator.send(rig.now_ns)
        rig.now_ns += TICK_NS
    state = rig.driver.read(rig.now_ns)
    assert state is not None
    assert state.position_rad[0] == pytest.approx(0.099, abs=UNIT)


def test_the_arm_survives_lost_frames() -> None:
    rig = Rig(faults=EmulatorFaults(frame_loss=0.3, loss_seed=11))
    try:
        rig.enable()
        ages_ns = []
        for _ in range(200):
            rig.driver.command(TARGET, 0.03)
            state = rig.tick()
            assert state is not None
            ages_ns.append(rig.now_ns - state.measured_ns)
            assert state.enabled
        state = rig.state(1)
        np.testing.assert_allclose(state.position_rad, TARGET, atol=UNIT)
        assert max(ages_ns) > TICK_NS  # frames were lost
        assert max(ages_ns) <= 20 * TICK_NS
        assert state.faults == ()
    finally:
        rig.close()


@pytest.mark.parametrize("raw", [2_000_000_000, -2_000_000_000, 360_001])
def test_a_joint_that_no_arm_can_have_is_not_believed(rig: Rig, raw: int) -> None:
    state = rig.state()
    rig.faults.raw_joints = (0, 0, raw, 0, 0, 0)
    implausible = rig.state(20)
    assert implausible.measured_ns == state.measured_ns
    np.testing.assert_array_equal(implausible.position_rad[2:4], state.position_rad[2:4])
    assert "joint_feedback_implausible" in implausible.faults
    assert rig.driver.implausible == 20
    rig.faults.raw_joints = None
    assert rig.state().faults == ()


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"arm_status": 0x05}, {"arm_joint_communication_err"}),
        ({"arm_status": 0x99}, {"arm_unknown"}),
        ({"limit_joints": (1, 6)}, {"arm_target_pos_exceeds_limit", "joint_1_angle_limit", "joint_6_angle_limit"}),
        ({"collision_joints": (3,)}, {"arm_collision_occurred", "joint_3_collision"}),
    ],
)
def test_a_fault_is_seen_and_goes_when_it_is_gone(rig: Rig, fault: dict[str, object], words: set[str]) -> None:
    rig.enable()
    assert rig.state().faults == ()
    for name, value in fault.items():
        setattr(rig.faults, name, value)
    state = rig.state()
    assert set(state.faults) == words
    for name in fault:
        setattr(rig.faults, name, getattr(EmulatorFaults(), name))
    assert rig.state().faults == ()


def test_a_joint_that_loses_torque_is_seen(rig: Rig) -> None:
    rig.enable()
    rig.faults.disabled_joints = (2,)
    assert not rig.state().enabled


def test_a_stuck_joint_stays_where_it_was(rig: Rig) -> None:
    rig.enable()
    start = rig.plant.position.copy()
    rig.faults.stuck_joints = (3,)
    state = rig.follow(TARGET, 0.03)
    assert state.position_rad[2] == pytest.approx(start[2], abs=2 * UNIT)
    np.testing.assert_allclose(np.delete(state.position_rad, 2), np.delete(TARGET, 2), atol=UNIT)


def test_a_deaf_arm_keeps_its_pose(rig: Rig) -> None:
    rig.enable()
    state = rig.follow(TARGET, 0.03)
    rig.faults.deaf = True
    np.testing.assert_allclose(rig.follow(TARGET * 0.5, 0.0).position_rad, state.position_rad, atol=UNIT)


def test_another_senders_set_point_is_a_fault_and_an_echo_is_not(rig: Rig) -> None:
    """A leader arm on the bus overrides the computer without a word."""
    rig.enable()
    rig.follow(TARGET, 0.03)
    echo = struct.pack("!ii", round(TARGET[0] / UNIT), round(TARGET[1] / UNIT))
    rig.emulator._bus.send(FRAME.pack(0x155, 8, echo))
    assert rig.state().faults == ()
    rig.emulator._bus.send(FRAME.pack(0x155, 8, struct.pack("!ii", 1000, 2000)))
    assert rig.state().faults == ("commanded_by_another_sender",)
    assert rig.state(100).faults == ()


def test_a_bus_that_fails_to_read_is_a_fault_and_not_an_exception(rig: Rig) -> None:
    state = rig.state()
    rig.driver._port.recv_bus.shutdown()
    failed = rig.driver.read(rig.now_ns + TICK_NS)
    assert failed is not None
    assert failed.faults == ("can_receive_failed",)
    assert failed.measured_ns == state.measured_ns


# ---------------------------------------------------------------- whose arm it is


def test_two_arms_do_not_hear_each_other() -> None:
    left, right = Rig("left"), Rig("right")
    try:
        right.plant.position = np.array([-0.5, 0.7, -0.7, 0.2, 0.2, 0.2])
        left.tick(5)
        assert right.driver.read(right.now_ns) is None
        left.enable()
        left.follow(TARGET, 0.06)
        state = right.state()
        assert state.arm == "right"
        assert not state.enabled
        np.testing.assert_allclose(state.position_rad, right.plant.position, atol=UNIT)
        assert state.gripper_width_m == pytest.approx(0.01)
    finally:
        left.close()
        right.close()


def test_another_thread_is_refused(rig: Rig) -> None:
    rig.enable()
    refusals: list[str] = []

    def intrude() -> None:
        for call in (
            lambda: rig.driver.read(0),
            lambda: rig.driver.enable(),
            lambda: rig.driver.command(TARGET, 0.0),
            lambda: rig.driver.close(),
        ):
            with pytest.raises(DriverError) as refusal:
                call()
            refusals.append(str(refusal.value))

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert len(refusals) == 4
    assert all("belongs to the thread that opened it" in refusal for refusal in refusals)


def test_the_driver_starts_no_thread(rig: Rig) -> None:
    before = threading.active_count()
    rig.enable()
    rig.follow(TARGET, 0.03)
    assert threading.active_count() == before


def test_a_closed_driver_can_be_opened_again_and_waits_for_new_feedback(rig: Rig) -> None:
    rig.enable()
    rig.follow(TARGET, 0.03)
    rig.driver.close()
    rig.driver.close()
    assert rig.plant.has_torque
    with pytest.raises(DriverError, match="not open"):
        rig.driver.read(rig.now_ns)
    rig.driver.open()
    assert rig.driver.read(rig.now_ns) is None
    np.testing.assert_allclose(rig.state().position_rad, TARGET, atol=UNIT)
    with pytest.raises(DriverError, match="before enable"):
        rig.driver.command(TARGET, 0.03)


def test_a_bus_that_cannot_be_opened_is_an_error_that_names_it(rig: Rig) -> None:
    config = rig.driver._config
    with pytest.raises(DriverError, match="already open"):
        rig.driver.open()
    with pytest.raises(DriverError, match="another driver of this process"):
        PiperArm("left", config).open()
    with pytest.raises(DriverError, match="no_such_bus"):
        PiperArm("left", ArmConfig(can_interface="simcan", can_channel="no_such_bus")).open()
    with pytest.raises(DriverError, match="nonsense"):
        PiperArm("left", ArmConfig(can_interface="nonsense", can_channel="x@24000")).open()
    with pytest.raises(DriverError, match="no_such_can0"):
        PiperArm("left", ArmConfig(can_interface="socketcan", can_channel="no_such_can0")).open()
    with pytest.raises(ConfigError, match="can_channel"):
        PiperArm("left", ArmConfig())


# ---------------------------------------------------------------- the SDK with its own threads


def test_the_sdks_own_readers_agree_with_the_emulated_arm() -> None:
    """The emulator is judged by the vendor's parser, forward kinematics and queries, not by our driver."""
    (channel,) = free_channels("sdk")
    plant = Plant()
    emulator = PiperEmulator("left", plant, channel)
    sdk = C_PiperInterface_V2(channel, judge_flag=False, can_auto_init=False)
    sdk.CreateCanBus(channel, bustype="simcan", expected_bitrate=1_000_000, judge_flag=False)
    try:
        sdk.ConnectPort()
        sdk.EnableFkCal()
        sdk.ArmParamEnquiryAndConfig(param_enquiry=0x01)
        sdk.ArmParamEnquiryAndConfig(param_enquiry=0x02)
        sdk.ArmParamEnquiryAndConfig(param_enquiry=0x04)
        now_ns = 0
        for position in np.random.default_rng(3).uniform(JOINT_MIN, JOINT_MAX, (20, 6)) * UNIT:
            plant.position = position
            expected = tuple(round(q / UNIT) for q in position)
            for _ in range(3):
                emulator.receive(now_ns)
                emulator.send(now_ns)
                now_ns += TICK_NS
            joints = sdk.GetArmJointMsgs().joint_state
            slow = sdk.GetArmLowSpdInfoMsgs()
            deadline_s = time.monotonic() + 5
            while joints.joint_6 != expected[5] and time.monotonic() < deadline_s:
                time.sleep(0.002)
            time.sleep(0.01)  # the rest of the burst
            assert tuple(getattr(joints, f"joint_{i}") for i in range(1, 7)) == expected
            pose = sdk.GetArmEndPoseMsgs().end_pose
            x, y, z, rx, ry, rz = sdk.GetFK("feedback")[5]
            assert (pose.X_axis, pose.Y_axis, pose.Z_axis) == pytest.approx((x * 1e3, y * 1e3, z * 1e3), abs=0.51)
            for fed_back, computed in ((pose.RX_axis, rx), (pose.RY_axis, ry), (pose.RZ_axis, rz)):
                assert abs((fed_back - computed * 1e3 + 180_000) % 360_000 - 180_000) < 0.51
            flange_m, _ = forward(np.array(expected) * UNIT)
            assert np.array((x, y, z)) * 1e-3 == pytest.approx(flange_m, abs=1e-9)
        assert sdk.GetPiperFirmwareVersion() == FIRMWARE_VERSION.decode()
        assert sdk.GetCurrentMotorMaxAccLimit().current_motor_max_acc_limit.max_joint_acc == 500
        assert sdk.GetCurrentEndVelAndAccParam().current_end_vel_acc_param.end_max_angular_vel == 1500
        assert sdk.GetCrashProtectionLevelFeedback().crash_protection_level_feedback.joint_6_protection_level == 1
        gripper_range = sdk.GetGripperTeachingPendantParamFeedback().arm_gripper_teaching_param_feedback
        assert gripper_range.max_range_config == 70
        assert slow.motor_6.vol == 240
    finally:
        sdk.DisconnectPort()
        emulator.close()


def test_the_emulated_arm_speaks_at_the_vendors_rates(rig: Rig) -> None:
    counts: dict[int, int] = {}
    send = rig.emulator._bus.send

    def count(burst: bytes) -> bool:
        for identifier, _, _ in FRAME.iter_unpack(burst):
            counts[identifier] = counts.get(identifier, 0) + 1
        return send(burst)

    rig.emulator._bus.send = count  # type: ignore[method-assign]
    for i in range(1000):  # a caller at 1 kHz
        rig.emulator.send(i * 1_000_000)
    rig.driver.read(rig.now_ns)
    assert 3020 <= sum(counts.values()) <= 3060
    assert all(199 <= counts[0x2A1 + i] <= 201 for i in range(8))
    assert all(39 <= counts[0x261 + i] <= 41 for i in range(6))
