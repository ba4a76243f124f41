"""What the grounding head is taught: where in the world the hands are about to act. Training only.

Eight numbers, four for each arm (left, then right): whether it acts now (0 or 1), and x, y, z [m] of its next key
place: where it grasps, or sets down what it holds, or puts its fingers to push. A second array says which of them are
known; the rest are out of the loss.

A question about a thing knows only where that thing is. It fills x and y of the arm on whose side of the table it
lies (left where y > 0), so that the same slots always mean *where the thing spoken of is*: the arm on that side is
the one that would be told to fetch it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from syvla.message import Float16, Float32

GROUNDING = 8
GROUNDING_NAMES = tuple(f"{arm}_{name}" for arm in ("left", "right") for name in ("acts", "x_m", "y_m", "z_m"))
WAYPOINT_MODEL = "reference"  # the planner whose intents hold waypoints
WAYPOINT_SHAPE = (20, 32)
# Columns of a waypoint row:
_ARM, _NUMBER, _POSITION, _HEIGHT, _WIDTH = 1, 2, slice(3, 6), 5, 10
_STRAIGHT, _AFTER, _MISTAKEN = 13, 14, 16
_DESCENT_M = 0.005  # more than half precision makes of one height


class Grounding(NamedTuple):
    """``values`` (8,) float32, 0 where unknown; ``known`` (8,) bool.

    ``mistaken``: an arm is about to go wrong on purpose, so what it does shall not be learned.
    """

    values: Float32
    known: npt.NDArray[np.bool_]
    mistaken: bool = False


def unknown() -> Grounding:
    """Nothing to learn."""
    return Grounding(np.zeros(GROUNDING, np.float32), np.zeros(GROUNDING, np.bool_))


def of_point(x_m: float, y_m: float) -> Grounding:
    """The place on the table that a question is about."""
    grounding = unknown()
    slots = slice(1, 3) if y_m > 0.0 else slice(5, 7)
    grounding.values[slots] = (x_m, y_m)
    grounding.known[slots] = True
    return grounding


def of_waypoints(states: Float16) -> Grounding:
    """The next key place of each arm, from the waypoint rows (20, 32) that the reference planner puts in an intent.

    A key place is reached on a straight line downwards; nothing else is. A waypoint that
    is already being left is not in the rows, so the first key place is the grasp until the thing is held, then the
    place to set it down, then the next thing's grasp. An arm without one is on its way home or has nothing to do.
    Where the demonstrator takes over in the middle of that line, the key place is the first row; an arm taken over in
    the middle of a push acts, and where it began is not known.

    Of two arms that take turns only the one whose turn it is acts: the other waits, on its way to its own key place,
    for a waypoint of this one that is not before this one's key place.
    """
    used = states[states[:, 0] == 1.0].astype(np.float64)
    rows = [used[used[:, _ARM] == arm] for arm in (0, 1)]
    keys = [_first_descent(own) for own in rows]
    grounding, mistaken = unknown(), False
    for arm, (key, other) in enumerate(((keys[0], keys[1]), (keys[1], keys[0]))):
        slot = 4 * arm
        grounding.known[slot] = True
        if key is None:
            continue
        waits_for = rows[arm][: key + 1, _AFTER].max()
        if other is not None and waits_for >= rows[1 - arm][other, _NUMBER]:
            continue
        grounding.values[slot] = 1.0
        if key > 0 or rows[arm][0, _WIDTH] > 0.0:  # nothing is taken or put down with the fingers shut
            grounding.values[slot + 1 : slot + 4] = rows[arm][key, _POSITION]
            grounding.known[slot + 1 : slot + 4] = True
        mistaken = mistaken or bool(rows[arm][0, _MISTAKEN])
    return grounding._replace(mistaken=mistaken)


def _first_descent(rows: npt.NDArray[np.float64]) -> int | None:
    """The first row that is reached on a straight line downwards from the one before.

    What came before the first row is not in the rows: it is such a place, or the end of a push, if the hand stays there
    or goes straight up from it.
    """
    straight, steps_m = rows[:, _STRAIGHT] == 1.0, np.diff(rows[:, _HEIGHT])
    if straight[:2].sum() == 2 and (steps_m[0] > _DESCENT_M or (rows[0, _POSITION] == rows[1, _POSITION]).all()):
        return 0
    down = (steps_m < -_DESCENT_M) & straight[1:]
    return int(down.argmax()) + 1 if down.any() else None
