"""The direct driver: the resolution of the CAN bus, and refusals."""

import math

import numpy as np
import pytest

from syvla.control.kinematics import HOME_RAD
from syvla.errors import DriverError
from syvla.message import Float64
from syvla.sim.twin_arm import TwinArm


class _Plant:
    """An arm that is at once where it is told to be."""

    def __init__(self) -> None:
        self.position = np.array(HOME_RAD)
        self.width_m = 0.0123456789
        self.on = False

    def measured(self) -> tuple[Float64, Float64, Float64, float]:
        return self.position, np.full(6, 0.12345678), np.full(6, -1.2345678), self.width_m

    def target(self, position_rad: Float64, gripper_width_m: float) -> None:
        self.position, self.width_m = position_rad, gripper_width_m

    def torque(self, on: bool) -> None:
        self.on = on


@pytest.fixture
def plant() -> _Plant:
    return _Plant()


@pytest.fixture
def arm(plant: _Plant) -> TwinArm:
    arm = TwinArm("right", plant)
    arm.open()
    return arm


def test_feedback_has_the_resolution_of_the_bus(arm: TwinArm, plant: _Plant) -> None:
    state = arm.read(42)
    assert state is not None
    assert state.arm == "right"
    assert state.measured_ns == 42
    assert not state.enabled
    thousandths = np.degrees(state.position_rad) * 1000.0
    np.testing.assert_allclose(thousandths, np.rint(thousandths), atol=1e-7)
    np.testing.assert_allclose(state.position_rad, plant.position, atol=math.radians(0.0005) + 1e-12)
    assert state.velocity_rad_s[0] == pytest.approx(0.123)
    assert state.effort_nm[0] == pytest.approx(-1.235)
    assert state.gripper_width_m == pytest.approx(0.012346)


def test_commands_have_the_resolution_of_the_bus_and_need_torque(arm: TwinArm, plant: _Plant) -> None:
    wanted = np.array([0.123456789, 1.0, -1.0, 0.2, 0.3, -0.4])
    arm.command(wanted, 0.0345678)
    np.testing.assert_array_equal(plant.position, HOME_RAD)
    assert arm.enable()
    assert plant.on
    arm.command(wanted, 0.0345678)
    thousandths = np.degrees(plant.position) * 1000.0
    np.testing.assert_allclose(thousandths, np.rint(thousandths), atol=1e-7)
    np.testing.assert_allclose(plant.position, wanted, atol=math.radians(0.0005) + 1e-12)
    assert plant.width_m == pytest.approx(0.034568)


def test_nothing_is_read_before_open_and_closing_keeps_the_torque(plant: _Plant) -> None:
    arm = TwinArm("left", plant)
    assert arm.read(0) is None
    with pytest.raises(DriverError, match="open"):
        arm.enable()
    with pytest.raises(DriverError, match="open"):
        arm.command(np.zeros(6), 0.0)
    arm.open()
    arm.enable()
    arm.close()
    assert arm.read(0) is None
    assert plant.on


@pytest.mark.parametrize(
    ("position", "width"),
    [
        (np.array([math.nan, 0, 0, 0, 0, 0]), 0.0),
        (np.array([0, 0, 0, 0, 0, -math.inf]), 0.0),
        (np.zeros(6), math.nan),
        (np.zeros(7), 0.0),
    ],
)
def test_a_set_point_that_is_not_one_is_refused(arm: TwinArm, position: Float64, width: float) -> None:
    arm.enable()
    with pytest.raises(DriverError, match="set-point"):
        arm.command(position, width)
