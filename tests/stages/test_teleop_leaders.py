"""Leader arms: two emulated arms on buses of their own are moved by hand, and the robot's arms follow them."""

from collections.abc import Iterable, Iterator
from math import nan
from types import SimpleNamespace

import numpy as np
import pytest
from robot_bench import HOME, LIMITS, MS, assert_within_limits
from teleop_bench import LB, START, Takeover

from syvla.config import ArmConfig, TeleopConfig
from syvla.drivers.piper import PiperArm
from syvla.drivers.piper_emulator import PiperEmulator
from syvla.drivers.simcan import free_channels
from syvla.message import Float64
from syvla.messages import ARMS, ArmName, Mode, Source
from syvla.protocols import ArmDriver, Emit, Inbox, Jog, Periodic
from syvla.teleop.leader import APPROACH_RAD_S, JOINED_RAD, Leaders

NOTHING = Jog(((0.0,) * 6,) * 2, (0.0, 0.0), False)


class Led:
    """The joints of an arm that a person moves."""

    def __init__(self, position: Float64) -> None:
        self.position = position.copy()
        self.width = 0.03
        self.torque_asked = False

    def measured(self) -> tuple[Float64, Float64, Float64, float]:
        """Where the person holds it."""
        return self.position, np.zeros(6), np.zeros(6), self.width

    def target(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Nobody may command it."""
        pytest.fail("a leader was commanded")

    def torque(self, on: bool) -> None:
        """Nor hold it against the person."""
        self.torque_asked = self.torque_asked or on


class LeaderArms:
    """Two leaders on the simulated bus; a stage that moves them on."""

    name = "twin"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    trigger = Periodic(5 * MS)
    lossless = False
    stopped = True

    def __init__(self, offset: float = 0.0) -> None:
        channels = free_channels("leader_left", "leader_right")
        self.led = [Led(HOME[:6] + offset), Led(HOME[6:] + offset)]
        self.velocity = np.zeros(6)
        pairs = zip(ARMS, self.led, channels, strict=True)
        self.emulators = [PiperEmulator(arm, led, channel) for arm, led, channel in pairs]
        self.drivers: dict[ArmName, ArmDriver] = {
            arm: PiperArm(arm, ArmConfig(can_interface="simcan", can_channel=channel))
            for arm, channel in zip(ARMS, channels, strict=True)
        }
        for driver in self.drivers.values():
            driver.open()
        self.guide = Leaders(self.drivers, LIMITS, TeleopConfig())

    @property
    def pose(self) -> Float64:
        """Both leaders' joints (12,)."""
        return np.concatenate([led.position for led in self.led])

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Five milliseconds of the person's motion."""
        for led, emulator in zip(self.led, self.emulators, strict=True):
            led.position = led.position + 0.005 * self.velocity
            emulator.receive(now_ns)
            emulator.send(now_ns)
        return ()

    def request_stop(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Leave the buses."""
        for emulator in self.emulators:
            emulator.close()


@pytest.fixture
def leaders() -> Iterator[LeaderArms]:
    found = LeaderArms(offset=-0.2)
    yield found
    found.guide.close()
    found.close()


def take(leaders: LeaderArms) -> Takeover:
    """Take over from a standing policy."""
    run = Takeover(leaders.guide, extra=[leaders])
    run.policy.velocity = 0.0
    run.run(0.02).operate("enable").run(0.3)
    run.pad.down.add(LB)
    return run


def apart(run: Takeover, leaders: LeaderArms) -> float:
    return float(np.abs(run.commands[-1].position_rad - leaders.pose).max())


def test_an_arm_approaches_its_leader_slowly_and_then_follows_it(leaders: LeaderArms) -> None:
    run = take(leaders)
    taken_ns = run.host.now_ns
    run.run(0.3)
    assert run.mode() is Mode.OVERRIDE
    assert run.speed() == pytest.approx(APPROACH_RAD_S, rel=0.01)
    run.run(1.5)
    assert apart(run, leaders) < 1e-3
    leaders.velocity = np.array([0.8, 0.5, -0.5, 0.3, -0.3, 1.0])
    run.run(0.6)
    assert run.speed() == pytest.approx(1.0, rel=0.05)
    assert apart(run, leaders) < 0.15, "what a second of full motion lags behind"
    leaders.velocity = np.zeros(6)
    run.run(1.0)
    assert apart(run, leaders) < 2e-3
    assert {c.provenance.source for c in run.since(taken_ns + 15 * MS)} == {Source.TELEOP}
    assert_within_limits(run.commands)


def test_a_leader_is_read_and_nothing_is_ever_sent_to_it(leaders: LeaderArms) -> None:
    run = take(leaders)
    run.run(1.0)
    assert run.speed() > 0
    for led, emulator in zip(leaders.led, leaders.emulators, strict=True):
        assert not led.torque_asked
        assert emulator.ignored == 0
        assert emulator._requests == 0


def test_let_go_and_taken_again_it_approaches_again(leaders: LeaderArms) -> None:
    run = take(leaders)
    run.run(2.0)
    run.pad.down.clear()
    leaders.velocity = np.full(6, 0.3)
    run.run(1.0)
    assert run.speed() == 0.0
    leaders.velocity = np.zeros(6)
    run.pad.down.add(LB)
    run.run(0.3)
    assert run.speed() <= APPROACH_RAD_S * 1.001
    assert apart(run, leaders) > JOINED_RAD
    run.pad.down = {START}
    run.run(0.5)
    assert run.mode() is Mode.ENABLED
    assert_within_limits(run.commands)


def test_the_grippers_follow_too(leaders: LeaderArms) -> None:
    run = take(leaders)
    leaders.led[0].width = 0.06
    run.run(2.0)
    assert run.commands[-1].gripper_width_m == pytest.approx([0.06, 0.03], abs=1e-3)


def test_a_leader_whose_cable_is_pulled_holds(leaders: LeaderArms) -> None:
    run = take(leaders)
    run.run(0.5)
    leaders.emulators[1].faults.silent = True
    gone_ns = run.host.now_ns
    run.run(0.5)
    assert run.mode() is Mode.HOLD
    assert "teleop_lost" in run.codes
    held = next(c for c in run.since(gone_ns) if c.provenance.source is Source.HOLD)
    assert held.commanded_ns - gone_ns <= 150 * MS
    leaders.emulators[1].faults.silent = False
    run.run(0.5)
    assert run.mode() is Mode.HOLD


@pytest.mark.parametrize("joint", [0, 5])
def test_a_leader_that_is_not_finite_is_handed_on_for_the_gate_to_judge(joint: int) -> None:
    class Broken:
        """An arm that measures what cannot be."""

        def read(self, now_ns: int) -> SimpleNamespace:
            position = np.zeros(6)
            position[joint] = nan
            return SimpleNamespace(measured_ns=now_ns, position_rad=position, gripper_width_m=0.0)

    arms: dict[ArmName, ArmDriver] = {"left": Broken(), "right": Broken()}  # type: ignore[dict-item]
    velocity = Leaders(arms, LIMITS, TeleopConfig()).velocity(1, np.zeros(14), NOTHING)
    assert velocity is not None
    assert not np.isfinite(velocity).all()
