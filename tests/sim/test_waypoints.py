"""The sub-goal codec."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syvla.errors import MessageError
from syvla.message import Float16
from syvla.messages import FEATURE_QUERIES
from syvla.sim.waypoints import BOTH_ARMS, WIDTH, Waypoint, decode, encode

DOWN = (0.0, 1.0, 0.0, 0.0)
HERE = Waypoint("left", 1, (0.3, 0.2, 0.1), DOWN, 0.05)


def rows_with(column: int, value: float) -> Float16:
    rows = encode([HERE], plan=3)
    rows[0, column] = value
    return rows


coordinate = st.floats(-0.5, 0.5)


@st.composite
def waypoints(draw: st.DrawFn) -> list[Waypoint]:
    last = dict.fromkeys(BOTH_ARMS, 0)
    made = []
    for _ in range(draw(st.integers(0, FEATURE_QUERIES))):
        arm = draw(st.sampled_from(BOTH_ARMS))
        last[arm] += draw(st.integers(1, 100))
        turn = np.array([draw(st.floats(-1.0, 1.0)) for _ in range(4)])
        norm = float(np.linalg.norm(turn))
        w, x, y, z = (turn / norm).tolist() if norm > 0.1 else DOWN
        made.append(
            Waypoint(
                arm=arm,
                number=last[arm],
                position_m=(draw(coordinate), draw(coordinate), draw(coordinate)),
                quaternion=(w, x, y, z),
                gripper_width_m=draw(st.floats(0.0, 0.07)),
                speed=draw(st.floats(0.1, 1.0)),
                dwell_s=draw(st.floats(0.0, 2.0)),
                straight=draw(st.booleans()),
                after=draw(st.integers(0, 2048)),
            )
        )
    return made


@given(waypoints(), st.integers(1, 2048))
@settings(max_examples=60, deadline=None)
def test_what_is_encoded_comes_back(sent: list[Waypoint], plan: int) -> None:
    got_plan, got = decode(encode(sent, plan))
    assert got_plan == (plan if sent else 0)
    assert len(got) == len(sent)
    for a, b in zip(sent, got, strict=True):
        assert (a.arm, a.number, a.straight, a.after) == (b.arm, b.number, b.straight, b.after)
        assert np.allclose(a.position_m, b.position_m, atol=2.5e-4)
        assert abs(np.dot(a.quaternion, b.quaternion)) > 1.0 - 1e-6
        assert np.allclose((a.gripper_width_m, a.speed, a.dwell_s), (b.gripper_width_m, b.speed, b.dwell_s), atol=1e-3)


def test_encoding_twice_gives_equal_bytes() -> None:
    """The expert tells by equality whether a waypoint changed."""
    assert encode([HERE], 5).tobytes() == encode([HERE], 5).tobytes()
    assert decode(encode([HERE], 5)) == decode(encode([HERE], 5))


@pytest.mark.parametrize(
    ("column", "value", "names"),
    [
        (0, 0.5, "used"),
        (1, 2.0, "arm"),
        (2, 1.5, "number"),
        (2, 0.0, "number"),
        (3, 3.0, "position"),
        (5, -3.0, "position"),
        (6, 0.5, "quaternion"),
        (10, -0.01, "gripper"),
        (10, 0.2, "gripper"),
        (11, 0.0, "speed"),
        (11, 1.5, "speed"),
        (12, -1.0, "dwell"),
        (12, 9.0, "dwell"),
        (13, 0.5, "straight"),
        (14, 0.5, "after"),
        (14, -1.0, "after"),
        (15, 2.5, "plan"),
        (20, 1.0, "rest"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(column: int, value: float, names: str) -> None:
    with pytest.raises(MessageError, match=f"row 0: {names}"):
        decode(rows_with(column, value))


@pytest.mark.parametrize("column", range(WIDTH))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_passes(column: int, value: float) -> None:
    with pytest.raises(MessageError, match="finite"):
        decode(rows_with(column, value))


def test_numbers_grow_within_an_arm_only() -> None:
    right = HERE._replace(arm="right")
    assert len(decode(encode([HERE, right], 1))[1]) == 2
    with pytest.raises(MessageError, match="row 1: number must grow"):
        encode([HERE, HERE], 1)


def test_a_used_row_after_an_unused_one_is_refused() -> None:
    rows = encode([HERE], 1)
    rows[2] = rows[0]
    with pytest.raises(MessageError, match="row 1 is unused"):
        decode(rows)


def test_rows_of_two_plans_are_refused() -> None:
    rows = encode([HERE, HERE._replace(number=2)], 1)
    rows[1, 15] = 2.0
    with pytest.raises(MessageError, match="one plan"):
        decode(rows)


def test_too_many_waypoints_and_other_shapes_are_refused() -> None:
    with pytest.raises(MessageError, match="at most 20"):
        encode([HERE._replace(number=n + 1) for n in range(FEATURE_QUERIES + 1)], 1)
    with pytest.raises(MessageError, match="shape"):
        decode(np.zeros((FEATURE_QUERIES, 2048), np.float16))
