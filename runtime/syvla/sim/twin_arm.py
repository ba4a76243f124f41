"""An arm driver directly on the twin's joints: what the CAN bus would carry, without the bus."""

import math
from collections.abc import Sequence

import numpy as np

from syvla.control.kinematics import LIMITS
from syvla.errors import DriverError
from syvla.message import Float64
from syvla.messages import ARM_JOINTS, ArmName, ArmState
from syvla.protocols import ArmPlant

# Positions travel as whole 0.001 deg, speeds and torques as 0.001 rad/s and Nm, the gripper as 0.001 mm.
_PER_RAD = 180.0 / math.pi * 1000.0
_FINE = np.array([_PER_RAD] * ARM_JOINTS + [1000.0] * (2 * ARM_JOINTS))
_FINE_INVERSE = 1.0 / _FINE


class TwinArm:
    """An ArmDriver with the Piper's resolution and none of its delays; deterministic."""

    def __init__(self, arm: ArmName, plant: ArmPlant) -> None:
        """Drives ``plant``, which is ``arm`` of a world."""
        self.arm = arm
        self._plant = plant
        self._open = False
        self._enabled = False

    def open(self) -> None:
        """Start answering."""
        self._open = True

    def enable(self) -> bool:
        """Switch the torque on; at once."""
        if not self._open:
            raise DriverError(f"{self.arm} arm: enable() before open()")
        self._plant.torque(True)
        self._enabled = True
        return True

    @property
    def position_limits_rad(self) -> tuple[Sequence[float], Sequence[float]]:
        """The joints' stops."""
        return LIMITS.lower_rad, LIMITS.upper_rad

    def read(self, now_ns: int) -> ArmState | None:
        """The joints at ``now_ns``, None before ``open``."""
        if not self._open:
            return None
        position, velocity, effort, width = self._plant.measured()
        coarse = np.rint(np.concatenate((position, velocity, effort)) * _FINE) * _FINE_INVERSE
        return ArmState(
            arm=self.arm,
            measured_ns=now_ns,
            position_rad=coarse[:6],
            velocity_rad_s=coarse[6:12],
            effort_nm=coarse[12:],
            gripper_width_m=round(width * 1e6) * 1e-6,
            enabled=self._enabled,
        )

    def command(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Send a set-point, ignored before ``enable``. DriverError if it is not six finite numbers and one."""
        if not self._open:
            raise DriverError(f"{self.arm} arm: command() before open()")
        if position_rad.shape != (ARM_JOINTS,) or not math.isfinite(float(position_rad.sum()) + gripper_width_m):
            raise DriverError(
                f"{self.arm} arm: a set-point must be 6 finite joints and a width, "
                f"not {position_rad}, {gripper_width_m}"
            )
        if self._enabled:
            joints = np.rint(position_rad * _PER_RAD) / _PER_RAD
            self._plant.target(joints, round(gripper_width_m * 1e6) * 1e-6)

    def close(self) -> None:
        """Stop answering; the arm keeps holding its last set-point."""
        self._open = False
