"""An arm out of a recording: it measures what was measured then, whatever it is commanded."""

from collections import deque
from collections.abc import Sequence

import msgspec

from syvla.control.kinematics import LIMITS
from syvla.message import Float64
from syvla.messages import ArmName, ArmState


class RecordedArm:
    """An ArmDriver without a device: whoever replays lays before it what it measured, and from when on.

    Its torque answers where ``answers`` is set, its limits are the Piper's.
    """

    def __init__(self, arm: ArmName, feedback_delay_ns: int = 0) -> None:
        """The recording's stamps are ``feedback_delay_ns`` before those that the arm itself gave."""
        self.arm = arm
        self.answers = False
        self._delay_ns = feedback_delay_ns
        self._state: ArmState | None = None
        self._to_come: deque[tuple[int, ArmState]] = deque()

    def show(self, state: ArmState, from_ns: int) -> None:
        """What is measured from ``from_ns`` on; later than anything before."""
        asked = msgspec.structs.replace(state, measured_ns=state.measured_ns + self._delay_ns)
        self._to_come.append((from_ns, asked))

    def open(self) -> None:
        """Nothing is connected."""

    def enable(self) -> bool:
        """Whether it answered then."""
        return self.answers

    @property
    def position_limits_rad(self) -> tuple[Sequence[float], Sequence[float]]:
        """The joints' stops."""
        return LIMITS.lower_rad, LIMITS.upper_rad

    def read(self, now_ns: int) -> ArmState | None:
        """What was measured last; None before the first."""
        while self._to_come and self._to_come[0][0] <= now_ns:
            self._state = self._to_come.popleft()[1]
        return self._state

    def command(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Nothing moves."""

    def close(self) -> None:
        """Nothing is connected."""
