"""What validation measures."""

from pathlib import Path

import numpy as np
import pytest
from tests.models.runs import RIG, config_of, numbers

from syvla_models.train.config import PERIOD_S
from syvla_models.train.trainer import validate_checkpoint
from syvla_models.train.validation import AIM_ROWS, closings


def test_validation_names_every_source_and_repeats_itself(data: Path, pretrained: Path) -> None:
    config = config_of(data, "pretrain")
    found = validate_checkpoint(config, RIG, pretrained / "checkpoint")
    assert found == validate_checkpoint(config, RIG, pretrained / "checkpoint")
    assert set(found) == {
        "validation/demos/text",
        "validation/demos/action",
        "error/demos/joint_rad",
        "error/demos/gripper_m",
        "error/demos/hand_m",
        "validation/scenes/seen",
        "validation/scenes/text",
        "validation/scenes/grounding",
        "error/scenes/place_m",
    }
    last = {name: value for (step, name), value in numbers(pretrained).items() if step == 6 and name in found}
    assert {name: pytest.approx(value, rel=1e-3) for name, value in found.items()} == last, "what the run ended with"
    assert 0.0 < found["error/demos/joint_rad"] < 0.5


def test_a_hand_is_aimed_where_the_demonstration_closes_it() -> None:
    rows = np.tile(np.arange(14.0), (50, 1))  # every joint moves elsewhere; the hands are open
    rows[:, [6, 13]] = 0.09
    assert closings(rows, PERIOD_S) == []
    rows[:, 6] = np.interp(np.arange(50), (20, 35), (0.09, 0.01))
    assert closings(rows, PERIOD_S) == [(20, 0)]
    rows[:, 13] = np.interp(np.arange(50), (AIM_ROWS - 5, AIM_ROWS + 5), (0.09, 0.01))
    assert closings(rows, PERIOD_S) == [(20, 0), (AIM_ROWS, 1)], "what began before is taken where it can be compared"
    rows[:, 13] = np.interp(np.arange(50), (0, AIM_ROWS), (0.09, 0.01))
    rows[:, 6] = np.interp(np.arange(50), (20, 35), (0.01, 0.09))
    assert closings(rows, PERIOD_S) == [], "too early, and an opening"
