"""What is committed: rows by their due time, and none where the arms do not follow them."""

import numpy as np
import pytest
from tests.models.policies import PERIOD_NS, chunk_of

from syvla_models.prefix import prefix_rows

START_NS = 1_000_000_000


RAMP = 0.5 + 0.01 * np.arange(20)[:, None] + 0.001 * np.arange(14)[None]
CHUNK = chunk_of(RAMP, START_NS)


def test_rows_are_taken_by_due_time_and_interpolated_between() -> None:
    at_ns = START_NS + 2 * PERIOD_NS + PERIOD_NS // 4
    rows = prefix_rows(CHUNK, at_ns, PERIOD_NS, 5, RAMP[2])
    assert rows.shape == (5, 14)
    assert np.allclose(rows, RAMP[2:7] + 0.0025, atol=1e-6)


def test_another_period_is_read_at_its_own_due_times() -> None:
    rows = prefix_rows(CHUNK, START_NS, 2 * PERIOD_NS, 4, RAMP[0])
    assert np.allclose(rows, RAMP[[0, 2, 4, 6]], atol=1e-6)


def test_there_is_nothing_past_the_last_row() -> None:
    at_ns = START_NS + 17 * PERIOD_NS
    assert np.allclose(prefix_rows(CHUNK, at_ns, PERIOD_NS, 10, RAMP[17]), RAMP[17:20], atol=1e-6)
    assert len(prefix_rows(CHUNK, START_NS + 20 * PERIOD_NS, PERIOD_NS, 10, RAMP[19])) == 0


@pytest.mark.parametrize(("off_rad", "count"), [(0.099, 3), (0.101, 0), (-0.101, 0), (float("nan"), 0)])
def test_there_is_no_prefix_where_the_arms_do_not_follow(off_rad: float, count: int) -> None:
    measured = RAMP[4].copy()
    measured[9] += off_rad
    assert len(prefix_rows(CHUNK, START_NS + 4 * PERIOD_NS, PERIOD_NS, 3, measured)) == count


def test_a_hand_that_holds_something_is_not_far_from_its_set_point() -> None:
    """Fingers around an object stand open while the set-point presses: that is no departure from the chunk."""
    measured = RAMP[0].copy()
    measured[6] += 5.0
    assert len(prefix_rows(CHUNK, START_NS, PERIOD_NS, 3, measured)) == 3


def test_arms_without_a_chunk_are_committed_to_stand() -> None:
    """A first chunk that moved at once was 0.12 rad ahead of the arms when it came, and the gate refused it.

    So it did with every one after it, and the arms never began: three of sixteen episodes ended so.
    """
    assert np.array_equal(prefix_rows(None, 0, PERIOD_NS, 5, RAMP[3]), np.repeat(RAMP[3:4], 5, axis=0))


def test_no_rows_asked_for_is_no_prefix() -> None:
    assert prefix_rows(None, 0, PERIOD_NS, 0, RAMP[0]).shape == (0, 14)
    assert prefix_rows(CHUNK, START_NS, PERIOD_NS, 0, RAMP[0]).shape == (0, 14)
