"""How hard seams are, from commands made up for it."""

import numpy as np
import pytest

from syvla.report.seams import seams

TICK_NS = 5_000_000


def test_a_seam_is_the_largest_change_from_one_tick_to_the_next_behind_a_splice() -> None:
    at_ns = [k * TICK_NS for k in range(400)]
    velocity = np.zeros((399, 2))
    velocity[:, 0] = 0.2
    velocity[100:, 0] = 0.5  # 0.3 rad/s from one tick to the next, where the first splice is
    velocity[249:, 1] = -0.1  # 9 ticks before the third one
    position = np.concatenate((np.zeros((1, 2)), np.cumsum(velocity * 0.005, axis=0)))
    found, jerk = seams(at_ns, position, [100 * TICK_NS, 200 * TICK_NS, 258 * TICK_NS])
    assert found == pytest.approx([0.3, 0.1, 0.0], abs=1e-9)
    assert jerk[0] == pytest.approx(0.3 / 0.005)
    assert seams([], np.zeros((0, 0)), []) == ([], [])
