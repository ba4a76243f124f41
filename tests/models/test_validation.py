"""Where validation looks at how well a hand was aimed."""

import numpy as np

from syvla_models.train.validation import AIM_ROWS, closings


def test_a_hand_is_aimed_where_the_demonstration_closes_it() -> None:
    rows = np.tile(np.arange(14.0), (50, 1))  # every joint moves elsewhere; the hands are open
    rows[:, [6, 13]] = 0.09
    assert closings(rows) == []
    rows[:, 6] = np.interp(np.arange(50), (20, 35), (0.09, 0.01))
    assert closings(rows) == [(20, 0)]
    rows[:, 13] = np.interp(np.arange(50), (AIM_ROWS - 5, AIM_ROWS + 5), (0.09, 0.01))
    assert closings(rows) == [(20, 0), (AIM_ROWS, 1)], "what began before is taken where it can be compared"
    rows[:, 13] = np.interp(np.arange(50), (0, AIM_ROWS), (0.09, 0.01))
    rows[:, 6] = np.interp(np.arange(50), (20, 35), (0.01, 0.09))
    assert closings(rows) == [], "too early, and an opening"
