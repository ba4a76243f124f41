"""Maps the stamps of a device's own clock to the host's monotonic clock. Pure: time is an argument."""

from itertools import pairwise
from typing import NamedTuple

from syvla.clock import NS_PER_S

BUCKET_NS = NS_PER_S  # of each second only the message that was least late counts
BUCKETS = 32  # how much of the past tells the drift
MAX_DRIFT = 5e-4  # no clock that works is further off; crystals stay below 1e-4
MIN_SPAN_NS = 4 * NS_PER_S  # a drift told from less would be jitter
EARLY_JUMP_NS = 100_000_000  # a message this much earlier than it can be
LATE_JUMP_NS = 500_000_000  # a whole bucket this much later than it was
WRAP_NS = 2**32 * 1000  # a counter of 32 bits and microseconds starts again after 72 minutes
WRAP_GAP_NS = 10 * NS_PER_S


class _Least(NamedTuple):
    """The message of one second that was least late."""

    device_ns: int
    offset_ns: int  # arrival minus stamp


class DeviceClock:
    """Offset and drift of a device's clock, told from when its messages arrive.

    A message can arrive late but never early, so that arrival minus stamp, drawn over the device's time, lies above a
    straight line: the offset and drift of the device's clock, plus the least delay that any message has. Of the lines
    below all points the one that is highest at their middle is taken, an edge of their lower convex hull (Moon, Skelly
    and Towsley, Infocom 1999; by the hull: Zhang, Liu and Xia, Infocom 2002). What the least delay is cannot be told
    from this; it stays in the result.

    A stamp that goes back, or that lies too far ahead, is a clock that was set or started anew: all is learnt anew.
    """

    def __init__(self) -> None:
        self.jumps = 0  # how often it was learnt anew
        self._wraps_ns = 0
        self._last_ns: int | None = None
        self._start_ns = 0  # of the bucket that is being filled
        self._least: list[_Least] = []  # one for each bucket; the last is being filled
        self._slope = 0.0
        self._at = _Least(0, 0)  # a point of the line

    def host_ns(self, device_ns: int, arrival_ns: int) -> int:
        """When ``device_ns`` was by the host's clock; never later than ``arrival_ns``, when the message came."""
        last_ns = self._last_ns
        device_ns += self._wraps_ns
        if last_ns is not None and 0 < device_ns + WRAP_NS - last_ns < WRAP_GAP_NS:
            self._wraps_ns += WRAP_NS
            device_ns += WRAP_NS
        point = _Least(device_ns, arrival_ns - device_ns)
        if last_ns is None or device_ns < last_ns or point.offset_ns < self._line(device_ns) - EARLY_JUMP_NS:
            self._learn_anew(point)
        elif device_ns - self._start_ns >= BUCKET_NS:
            self._close_bucket(point)
        elif point.offset_ns < self._least[-1].offset_ns:
            self._least[-1] = point
        if point.offset_ns < self._line(device_ns):
            self._at = point
        self._last_ns = device_ns
        return min(device_ns + round(self._line(device_ns)), arrival_ns)

    @property
    def drift(self) -> float:
        """How much faster the host's clock runs than the device's: 1e-4 is 100 parts per million."""
        return self._slope

    def _line(self, device_ns: int) -> float:
        return self._at.offset_ns + self._slope * (device_ns - self._at.device_ns)

    def _learn_anew(self, point: _Least) -> None:
        self.jumps += self._last_ns is not None
        self._least = [point]
        self._start_ns = point.device_ns
        self._slope, self._at = 0.0, point

    def _close_bucket(self, point: _Least) -> None:
        best = self._least[-1]
        if best.offset_ns > self._line(best.device_ns) + LATE_JUMP_NS:  # not late messages: a clock that stood still
            self._learn_anew(point)
            return
        self._fit()
        self._start_ns = point.device_ns
        self._least = [*self._least[1 - BUCKETS :], point]

    def _fit(self) -> None:
        """Lay the line below all points."""
        hull: list[_Least] = []
        for point in self._least:
            while len(hull) >= 2 and _turns_down(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        middle_ns = sum(point.device_ns for point in self._least) // len(self._least)
        self._slope = 0.0
        if self._least[-1].device_ns - self._least[0].device_ns >= MIN_SPAN_NS:
            left, right = next(pair for pair in pairwise(hull) if pair[1].device_ns >= middle_ns)
            slope = (right.offset_ns - left.offset_ns) / (right.device_ns - left.device_ns)
            self._slope = min(max(slope, -MAX_DRIFT), MAX_DRIFT)
        self._at = min(self._least, key=lambda point: point.offset_ns - self._slope * point.device_ns)


def _turns_down(a: _Least, b: _Least, c: _Least) -> bool:
    """Whether ``b`` lies on or above the line from ``a`` to ``c``."""
    return (b.offset_ns - a.offset_ns) * (c.device_ns - a.device_ns) >= (c.offset_ns - a.offset_ns) * (
        b.device_ns - a.device_ns
    )
