"""The sub-goal codec: waypoints of both arms as the rows of a (20, 32) float16 array.

The reference planner writes its next waypoints where a learned planner puts the hidden states of its feature
query tokens, so both travel through the same :class:`~syvla.messages.Intent`.

Columns: used, arm (0 left, 1 right), number, x y z [m], quaternion w x y z, gripper width [m], speed,
dwell [s], straight, after, plan, mistaken; the rest is zero. float16 holds integers up to 2048 exactly, positions below
half a metre to 0.25 mm and unit quaternions to 0.06 degrees.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from syvla.errors import MessageError
from syvla.message import Float16
from syvla.messages import FEATURE_QUERIES, ArmName

WIDTH = 32
MAX_NUMBER = 2048  # the largest count that float16 steps through one by one
_COLUMNS = 17
BOTH_ARMS: tuple[ArmName, ArmName] = ("left", "right")
OTHER_ARM: dict[ArmName, ArmName] = {"left": "right", "right": "left"}


class Waypoint(NamedTuple):
    """One sub-goal of one arm; the arm comes to rest at each."""

    arm: ArmName
    number: int  # counts up from 1 within an arm and a plan
    position_m: tuple[float, float, float]  # of the grasp point, in the world
    quaternion: tuple[float, float, float, float]  # w x y z; z is the direction of approach, y that of closing
    gripper_width_m: float  # reached together with the pose
    speed: float = 1.0  # share of the full speed, above 0 and at most 1
    dwell_s: float = 0.0  # rest at the pose before it counts as completed
    straight: bool = False  # straight line of the grasp point instead of a straight line in joint space
    after: int = 0  # number of the other arm's waypoint that must be completed before this one starts; 0: none
    mistaken: bool = False  # goes wrong on purpose, to show what to do then: nobody shall learn to go there


def encode(waypoints: Sequence[Waypoint], plan: int) -> Float16:
    """Pack up to 20 waypoints into (20, 32) float16; MessageError for what ``decode`` would refuse.

    ``plan`` (0..2048) names the numbering: it changes when the planner started over and counts from 1 again.
    """
    if len(waypoints) > FEATURE_QUERIES:
        raise MessageError(f"at most {FEATURE_QUERIES} waypoints fit an intent, not {len(waypoints)}")
    rows = np.zeros((FEATURE_QUERIES, WIDTH), np.float16)
    for row, w in zip(rows, waypoints, strict=False):
        row[:_COLUMNS] = (
            1.0,
            BOTH_ARMS.index(w.arm),
            w.number,
            *w.position_m,
            *w.quaternion,
            w.gripper_width_m,
            w.speed,
            w.dwell_s,
            w.straight,
            w.after,
            plan,
            w.mistaken,
        )
    decode(rows)
    return rows


def decode(states: Float16) -> tuple[int, tuple[Waypoint, ...]]:
    """The plan and its waypoints, in row order; plan 0 where no row is used.

    Raises:
        MessageError: naming the row and the column that does not belong to a waypoint.
    """
    if states.shape != (FEATURE_QUERIES, WIDTH):
        raise MessageError(f"waypoints must have shape ({FEATURE_QUERIES}, {WIDTH}), not {states.shape}")
    if not np.isfinite(states).all():
        raise MessageError("waypoints must be finite")
    table: list[list[float]] = states.astype(np.float64).tolist()
    waypoints: list[Waypoint] = []
    plans: set[int] = set()
    last = dict.fromkeys(BOTH_ARMS, 0)
    for index, row in enumerate(table):
        if row[0] == 0.0:
            break
        _check(index, row)
        arm: ArmName = "left" if row[1] == 0.0 else "right"
        number = int(row[2])
        if number <= last[arm]:
            raise MessageError(f"waypoint row {index}: number must grow within an arm, {number} after {last[arm]}")
        last[arm] = number
        plans.add(int(row[15]))
        w, x, y, z = row[6:10]
        norm = math.sqrt(w * w + x * x + y * y + z * z)
        waypoints.append(
            Waypoint(
                arm=arm,
                number=number,
                position_m=(row[3], row[4], row[5]),
                quaternion=(w / norm, x / norm, y / norm, z / norm),
                gripper_width_m=row[10],
                speed=row[11],
                dwell_s=row[12],
                straight=row[13] == 1.0,
                after=int(row[14]),
                mistaken=row[16] == 1.0,
            )
        )
    if any(any(row) for row in table[len(waypoints) :]):
        raise MessageError(f"waypoint row {len(waypoints)} is unused, so it and all later rows must be zero")
    if len(plans) > 1:
        raise MessageError(f"waypoints must belong to one plan, not {sorted(plans)}")
    return (plans.pop() if plans else 0), tuple(waypoints)


def _check(index: int, row: list[float]) -> None:
    """Refuse a row whose values are out of their range."""
    norm = math.sqrt(sum(v * v for v in row[6:10]))
    rules = (
        ("used", row[0] == 1.0, "1 or 0"),
        ("arm", row[1] in (0.0, 1.0), "0 (left) or 1 (right)"),
        ("number", row[2].is_integer() and 1 <= row[2] <= MAX_NUMBER, f"a count 1..{MAX_NUMBER}"),
        ("position", all(abs(v) <= 2.0 for v in row[3:6]), "within 2 m of the world's origin"),
        ("quaternion", abs(norm - 1.0) < 0.01, "of unit length"),
        ("gripper width", 0.0 <= row[10] <= 0.1, "0..0.1 m"),
        ("speed", 0.0 < row[11] <= 1.0, "above 0 and at most 1"),
        ("dwell", 0.0 <= row[12] <= 5.0, "0..5 s"),
        ("straight", row[13] in (0.0, 1.0), "0 or 1"),
        ("after", row[14].is_integer() and 0 <= row[14] <= MAX_NUMBER, f"a count 0..{MAX_NUMBER}"),
        ("plan", row[15].is_integer() and 0 <= row[15] <= MAX_NUMBER, f"a count 0..{MAX_NUMBER}"),
        ("mistaken", row[16] in (0.0, 1.0), "0 or 1"),
        ("rest", not any(row[_COLUMNS:]), "zero"),
    )
    for name, holds, wanted in rules:
        if not holds:
            raise MessageError(f"waypoint row {index}: {name} must be {wanted}")
