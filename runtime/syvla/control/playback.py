"""Recorded actions as a trajectory that can be approached, slowed down, paused and gone on with.

Two clocks run in it: what has been played of the actions [s], which comes to rest while nothing is to move, and that of
the approach, which leads from wherever the arms stand to where the actions are to go on.
"""

from typing import NamedTuple

import numpy as np

from syvla.clock import NS_PER_S
from syvla.errors import ConfigError
from syvla.message import Float64
from syvla.messages import BOTH_ARMS_JOINTS, PROPRIOCEPTION

APPROACH_RAD_S = 0.25  # never faster, at its peak
APPROACH_M_S = 0.05
PEAK = 1.5  # of a smoothstep's velocity, over its mean
FAR_RAD = 0.6  # a start further away than this is not approached: nobody knows what stands in between
SPEEDS = (0.1, 1.0)
RAMP_S = 0.25  # from standing to the recorded speed and back: an arm that does 2 rad/s goes on for 0.25 rad
KEPT_NS = 250_000_000


class Actions(NamedTuple):
    """What was commanded: at_s (N > 1,) ascending from 0, set_point (N, 14) joints of both arms [rad], grippers [m]."""

    at_s: Float64
    set_point: Float64

    def at(self, time_s: float) -> Float64:
        """The set-points (14,) at ``time_s``; before and after, the first and the last."""
        at_s = self.at_s
        row = int(np.searchsorted(at_s, time_s, side="right")) - 1
        row = min(max(row, 0), len(at_s) - 2)
        share = min(max((time_s - at_s[row]) / (at_s[row + 1] - at_s[row]), 0.0), 1.0)
        value: Float64 = self.set_point[row] + share * (self.set_point[row + 1] - self.set_point[row])
        return value

    @property
    def duration_s(self) -> float:
        """From the first to the last."""
        return float(self.at_s[-1])


def checked_speed(speed: float) -> float:
    """``speed`` if actions may be played with it; ConfigError otherwise."""
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise ConfigError(f"speed must be {SPEEDS[0]} to {SPEEDS[1]} of the recorded one, not {speed}")
    return speed


class _Approach(NamedTuple):
    start: Float64  # (14,)
    end: Float64
    duration_s: float

    def at(self, time_s: float) -> Float64:
        s = min(max(time_s / self.duration_s, 0.0), 1.0) if self.duration_s > 0 else 1.0
        return self.start + (self.end - self.start) * (s * s * (3.0 - 2.0 * s))


class Where(NamedTuple):
    """How far the approach and the actions are, and at which share of their own speed each is going on."""

    approached_s: float = 0.0
    approach_rate: float = 0.0
    played_s: float = 0.0
    rate: float = 0.0


def ramped(rate: float, wanted: float, seconds: float) -> tuple[float, float]:
    """The share of the speed after ``seconds`` on the way from ``rate`` to ``wanted``, and how far that leads [s]."""
    ramp_s = min(abs(wanted - rate) * RAMP_S, seconds)
    after = rate + np.sign(wanted - rate) * ramp_s / RAMP_S if ramp_s == seconds else wanted
    return float(after), float((rate + after) / 2 * ramp_s + wanted * (seconds - ramp_s))


class Wish(NamedTuple):
    """From an instant on: at which share of their speed the actions are to be played, and whether anything moves."""

    from_ns: int
    speed: float
    moving: bool


REST = Wish(0, 1.0, False)


class Playback:
    """Where ``actions`` are, and what comes next. It starts and stops by a ramp, forward along its way.

    Unless it is told anew, it comes to rest by itself ``KEPT_NS`` after it was last told anything.
    """

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._where = Where()
        self._at_ns = 0
        self._wishes = [REST]  # by instant; the first one is in force at ``_at_ns``
        self._approach = _Approach(actions.set_point[0], actions.set_point[0], 0.0)

    @property
    def played_s(self) -> float:
        """How much of the actions has been played [s]."""
        return self._where.played_s

    @property
    def approaching(self) -> bool:
        """Whether the arms are still being led to where the actions go on."""
        return self._where.approached_s < self._approach.duration_s

    @property
    def done(self) -> bool:
        """Whether everything has been played."""
        return self.played_s >= self._actions.duration_s and not self.approaching

    def short_rad(self, measured: Float64) -> float:
        """How far the worst joint of ``measured`` (14,) is from where the actions stand."""
        apart = np.abs(self._actions.at(self.played_s) - measured)[:BOTH_ARMS_JOINTS]
        return float(apart.max())

    def refusal(self, measured: Float64) -> str | None:
        """Why the actions are not approached from ``measured`` (14,); None if they are."""
        apart = np.abs(self._actions.at(self.played_s) - measured)[:BOTH_ARMS_JOINTS]
        joint = int(apart.argmax())
        if not apart[joint] <= FAR_RAD:  # true of NaN
            arm = "left" if joint < BOTH_ARMS_JOINTS // 2 else "right"
            return (
                f"{arm} joint {joint % 6 + 1} stands {apart[joint]:.2f} rad from where the actions begin, at most "
                f"{FAR_RAD} are approached: bring the arms nearer first"
            )
        return None

    def begin(self, now_ns: int, measured: Float64) -> None:
        """Go on from arms that stand at ``measured`` (14,), not refused: approach where the actions are, then play."""
        end = self._actions.at(self.played_s)
        apart = np.abs(end - measured)
        peaks = np.where(np.arange(PROPRIOCEPTION) < BOTH_ARMS_JOINTS, APPROACH_RAD_S, APPROACH_M_S)
        self._approach = _Approach(np.array(measured), end, float((PEAK * apart / peaks).max()))
        self._where, self._at_ns, self._wishes = Where(played_s=self.played_s), now_ns, [REST]

    def rewind(self, played_s: float) -> None:
        """What was played since was not executed."""
        self._where = self._where._replace(played_s=min(played_s, self._where.played_s))

    def advance(self, now_ns: int) -> None:
        """Time passes, up to ``now_ns``."""
        if now_ns > self._at_ns:
            self._where = self._after(self._where, self._at_ns, now_ns)
            self._at_ns = now_ns
            while len(self._wishes) > 1 and self._wishes[1].from_ns <= now_ns:
                del self._wishes[0]

    def wish(self, from_ns: int, speed: float, moving: bool) -> None:
        """From ``from_ns`` on, which is not before what has been sent to the arms, let this be so, for a while."""
        kept = [wish for wish in self._wishes[1:] if wish.from_ns < from_ns]
        new = [Wish(from_ns, speed, moving), *([Wish(from_ns + KEPT_NS, speed, False)] if moving else [])]
        self._wishes = [self._wishes[0], *kept, *new]

    def rows(self, count: int, period_ns: int) -> Float64:
        """The next set-points (count, 14), ``period_ns`` apart, from where it has advanced to."""
        rows = np.empty((count, PROPRIOCEPTION))
        where, at_ns = self._where, self._at_ns
        for row in rows:
            approaching = where.approached_s < self._approach.duration_s
            row[:] = self._approach.at(where.approached_s) if approaching else self._actions.at(where.played_s)
            where = self._after(where, at_ns, at_ns + period_ns)
            at_ns += period_ns
        return rows

    def _after(self, where: Where, at_ns: int, until_ns: int) -> Where:
        """Where it is at ``until_ns``, from ``at_ns`` on."""
        following = [*(wish.from_ns for wish in self._wishes[1:]), until_ns]
        for wish, next_ns in zip(self._wishes, following, strict=True):
            end_ns = min(next_ns, until_ns)
            if end_ns > at_ns:
                where = self._moved(where, (end_ns - at_ns) / NS_PER_S, wish)
                at_ns = end_ns
        return where

    def _moved(self, where: Where, seconds: float, wish: Wish) -> Where:
        """Where it is ``seconds`` later. The approach is never faster than it is, and ends at rest by itself."""
        approached_s, approach_rate, played_s, rate = where
        left_s = self._approach.duration_s - approached_s
        if left_s > 0:
            approach_rate, way_s = ramped(approach_rate, float(wish.moving), seconds)
            if way_s <= left_s:
                return Where(approached_s + way_s, approach_rate, played_s, rate)
            approached_s, seconds = self._approach.duration_s, min(way_s - left_s, seconds)
        rate, way_s = ramped(rate, wish.speed if wish.moving else 0.0, seconds)
        return Where(approached_s, approach_rate, min(played_s + way_s, self._actions.duration_s), rate)
