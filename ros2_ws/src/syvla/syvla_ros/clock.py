"""ROS time and the runtime's monotonic time: the one place where one becomes the other."""

from typing import NamedTuple

from builtin_interfaces.msg import Time

from syvla.clock import NS_PER_S
from syvla.errors import MessageError

MAX_SECONDS = 2**31 - 1  # of builtin_interfaces/Time


class RosClock(NamedTuple):
    """Maps instants of one run; ``offset_ns`` is the wall clock minus the monotonic one when the run started.

    All nodes of a run have the same, from its configuration, so a clock that is set meanwhile changes no age.
    """

    offset_ns: int

    def to_ros(self, monotonic_ns: int) -> Time:
        """The stamp of an instant; MessageError if ROS cannot say it."""
        seconds, nanoseconds = divmod(monotonic_ns + self.offset_ns, NS_PER_S)
        if not 0 <= seconds <= MAX_SECONDS:
            raise MessageError(f"stamp: {monotonic_ns} ns lies {seconds} s from ROS's epoch, beyond 0..{MAX_SECONDS}")
        return Time(sec=seconds, nanosec=nanoseconds)

    def to_monotonic_ns(self, stamp: Time) -> int:
        """The instant of a stamp."""
        if not 0 <= stamp.nanosec < NS_PER_S:
            raise MessageError(f"stamp.nanosec must be 0..999999999, not {stamp.nanosec}")
        return int(stamp.sec) * NS_PER_S + int(stamp.nanosec) - self.offset_ns
