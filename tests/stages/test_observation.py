"""An observation: what was sensed, brought to one instant, and how old each part is."""

import pytest
from policy_bench import MS, arm, frame

from syvla.control.observation import observe, proprioception


def test_two_arms_are_brought_to_the_older_of_their_stamps() -> None:
    left, right = arm("left", 1000 * MS, 0.5, 2.0), arm("right", 1004 * MS, 0.3, -1.0)
    senses = proprioception(left, right, 1000 * MS)
    assert senses == pytest.approx([*[0.5] * 6, 0.02, *[0.304] * 6, 0.02])


def test_an_arm_is_carried_by_a_tenth_of_a_second_at_most() -> None:
    senses = proprioception(arm("left", 300 * MS, 0.5, 1.0), arm("right", 0, 0.5, 1.0), 0)
    assert senses[:6] == pytest.approx([0.4] * 6)
    assert senses[7:13] == pytest.approx([0.5] * 6)


def test_an_observation_is_as_old_as_its_oldest_source_and_says_each_age() -> None:
    seen = observe(arm("left", 50 * MS), arm("right", 55 * MS), (frame("cam_high", 20 * MS),))
    assert seen.observation_ns == 20 * MS
    assert seen.source_age_s == pytest.approx({"left": -0.03, "right": -0.035, "cam_high": 0.0})
    assert [f.camera for f in seen.frames] == ["cam_high"]
