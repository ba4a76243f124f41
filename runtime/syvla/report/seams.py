"""How hard the seams between chunks are, from the set-points around them."""

from collections.abc import Sequence

import numpy as np

from syvla.message import Float64

WINDOW_S = 0.25  # after a splice
TICK_S = 0.005


def seams(at_ns: Sequence[int], position_rad: Float64, spliced_ns: Sequence[int]) -> tuple[list[float], list[float]]:
    """Of each splice the largest change of velocity [rad/s] and of acceleration [rad/s^2] within one tick after it.

    ``at_ns`` are the N ticks, ``position_rad`` (N, joints) the set-points in them; NaN: there were none.
    """
    velocity = np.diff(position_rad, axis=0) / TICK_S
    change = np.abs(np.diff(velocity, axis=0)).max(axis=1, initial=0.0)  # i: from tick i + 1 to i + 2
    jerk = np.abs(np.diff(velocity, n=2, axis=0)).max(axis=1, initial=0.0) / TICK_S
    first = np.searchsorted(at_ns, spliced_ns)
    window = round(WINDOW_S / TICK_S)
    found: tuple[list[float], list[float]] = ([], [])
    for start in first.tolist():
        for values, into in zip((change, jerk), found, strict=True):
            part = values[max(start - 2, 0) : start + window]
            part = part[np.isfinite(part)]
            if len(part):
                into.append(float(part.max()))
    return found
