"""Leader arms: a person leads two arms by hand, and the robot's arms do as they do."""

from collections.abc import Mapping

import numpy as np

from syvla.clock import to_ns
from syvla.config import SafetyLimits, TeleopConfig
from syvla.errors import SyvlaError
from syvla.message import Float64
from syvla.messages import ARMS, ArmName, ArmState
from syvla.protocols import ArmDriver, Jog

FOLLOW_PER_S = 10.0  # of what is left of the way, each second
APPROACH_RAD_S = 0.25  # until an arm has come to where its leader is
JOINED_RAD = 0.05
SPEED_SHARE = 0.95  # of the gate's velocity limits


class Leaders:
    """A :class:`~syvla.protocols.Guide` for leader arms, which are read and never commanded or enabled.

    When a person takes over, an arm first goes slowly to where its leader is, whatever way that is, and then follows
    it; each arm by itself. What a leader says of its own state does not matter: one that is led by hand is in teaching
    mode. Joints that are not finite are handed on, for the gate to hold.

    Args:
        arms: the drivers of both leaders, opened.
        limits: the gate's.
        config: says after which silence a leader is lost.
    """

    def __init__(self, arms: Mapping[ArmName, ArmDriver], limits: SafetyLimits, config: TeleopConfig) -> None:
        self._arms = [arms[arm] for arm in ARMS]
        self._speed = SPEED_SHARE * np.array([*limits.velocity_rad_s, limits.gripper_velocity_m_s])
        self._silent_ns = to_ns(config.silent_s)
        self._joined = [False, False]

    def rest(self, now_ns: int) -> None:
        """Approach anew next time; listen meanwhile, so that what a leader then says is new."""
        self._joined = [False, False]
        for driver in self._arms:
            self._read(driver, now_ns)

    def velocity(self, now_ns: int, set_point: Float64, jog: Jog) -> Float64 | None:
        """Towards the leaders, (14,); ``jog`` is not looked at."""
        wanted = np.zeros(14)
        for k, driver in enumerate(self._arms):
            state = self._read(driver, now_ns)
            if state is None:
                return None
            rows = [*range(6 * k, 6 * k + 6), 12 + k]
            gap = np.append(state.position_rad, state.gripper_width_m) - set_point[rows]
            self._joined[k] = self._joined[k] or bool(np.abs(gap[:6]).max() <= JOINED_RAD)
            speed = self._speed if self._joined[k] else np.minimum(self._speed, APPROACH_RAD_S)
            share = np.abs(FOLLOW_PER_S * gap / speed).max()  # all joints together, so that the way is straight
            wanted[rows] = FOLLOW_PER_S * gap / np.maximum(share, 1.0)
        return wanted

    def _read(self, driver: ArmDriver, now_ns: int) -> ArmState | None:
        try:
            state = driver.read(now_ns)
        except SyvlaError:
            return None
        return state if state is not None and now_ns - state.measured_ns <= self._silent_ns else None

    def close(self) -> None:
        """Close the drivers; nothing was ever sent to the leaders."""
        for driver in self._arms:
            driver.close()
