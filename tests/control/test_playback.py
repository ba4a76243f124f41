"""Recorded actions as a trajectory: never fast towards the start, never a jump, nothing while nothing is to move."""

import numpy as np
import pytest

from syvla.control.playback import APPROACH_RAD_S, FAR_RAD, RAMP_S, Actions, Playback, checked_speed
from syvla.errors import ConfigError

PERIOD_S = 1 / 30


def actions(seconds: float = 4.0) -> Actions:
    """A slow swing of every joint, from 0.1 rad on."""
    at_s = np.arange(0.0, seconds, 0.005)
    set_point = 0.1 + 0.3 * np.sin(at_s)[:, None] * np.linspace(0.2, 1.0, 14)
    return Actions(at_s, set_point)


def played(playback: Playback, speed: float, step_s: float = 0.05, most: int = 10_000) -> np.ndarray:
    """What is commanded by a robot that executes each chunk until the next one comes, every 5 ms."""
    rows = []
    for _ in range(most):
        if playback.done:
            break
        chunk = playback.rows(16, PERIOD_S, speed, moving=True)
        at_s = np.arange(0.0, step_s, 0.005)
        rows += [[np.interp(t, np.arange(16) * PERIOD_S, chunk[:, j]) for j in range(14)] for t in at_s]
        playback.advance(step_s, speed, moving=True)
    return np.array(rows)


def test_between_two_commands_there_is_a_straight_line_and_nothing_beyond_the_ends() -> None:
    found = Actions(np.array([0.0, 1.0, 3.0]), np.array([[0.0] * 14, [1.0] * 14, [2.0] * 14]))
    assert [found.at(t)[0] for t in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0)] == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert found.duration_s == 3.0


def test_the_start_is_approached_slowly_and_met_exactly() -> None:
    playback = Playback(actions())
    start = actions().set_point[0] - np.array([0.4] * 12 + [0.001] * 2)
    assert playback.refusal(start) is None
    playback.begin(start)
    rows = played(playback, 1.0)
    speed = np.abs(np.diff(rows[:, :12], axis=0)) / 0.005
    begins_s = 1.5 * 0.4 / APPROACH_RAD_S
    begins = round(begins_s / 0.005)
    assert np.abs(rows[begins] - actions().set_point[0]).max() < 0.01
    assert APPROACH_RAD_S * 0.95 < speed[: begins - 10].max() <= APPROACH_RAD_S * 1.01
    assert np.abs(rows[-1] - actions().set_point[-1]).max() < 0.02


@pytest.mark.parametrize("speed", [0.1, 0.5, 1.0])
def test_a_share_of_the_speed_takes_so_much_longer_and_goes_the_same_way(speed: float) -> None:
    playback = Playback(actions())
    playback.begin(actions().set_point[0])
    rows = played(playback, speed)
    assert len(rows) * 0.005 == pytest.approx(actions().duration_s / speed + RAMP_S / 2, abs=0.1)
    started = round(RAMP_S / 0.005) + 10
    expected = np.array([actions().at((k * 0.005 - speed * RAMP_S / 2) * speed) for k in range(len(rows))])
    assert np.abs(rows - expected)[started:].max() < 3e-3  # the curve between two rows of 33 ms is a line


@pytest.mark.parametrize("speed", [0.1, 1.0])
def test_it_comes_to_rest_along_its_way_and_starts_as_gently(speed: float) -> None:
    playback = Playback(actions())
    playback.begin(actions().set_point[0])
    playback.advance(1.0, speed, moving=True)
    was_s = playback.played_s
    assert was_s == pytest.approx(speed * (1.0 - speed * RAMP_S / 2)), "less what the start took"
    rows = playback.rows(100, 0.005, speed, moving=False)
    velocity = np.diff(rows, axis=0) / 0.005
    way = actions().at(was_s + 0.005 * speed) - actions().at(was_s)
    assert (velocity * np.sign(way) >= -1e-9).all(), "never back"
    assert np.abs(velocity[0] - way / 0.005).max() < 0.02, "it begins as fast as it was"
    ramp = round(speed * RAMP_S / 0.005)
    assert np.ptp(rows[ramp + 1 :], axis=0).max() < 1e-12, "and then it stands"
    assert rows[-1] == pytest.approx(actions().at(was_s + speed * speed * RAMP_S / 2), abs=1e-6)
    playback.advance(0.5, speed, moving=False)
    stood_s = playback.played_s
    playback.advance(10.0, speed, moving=False)
    assert playback.played_s == stood_s
    again = playback.rows(100, 0.005, speed, moving=True)
    assert np.abs(np.diff(again[:3], axis=0)).max() < 1e-3 * speed


def test_after_a_stop_it_is_approached_again_and_gone_on_with() -> None:
    playback = Playback(actions())
    playback.begin(actions().set_point[0])
    playback.advance(2.0, 1.0, moving=True)
    was_s = playback.played_s
    strayed = actions().at(was_s) + 0.15
    playback.begin(strayed)
    assert playback.approaching
    assert playback.rows(1, PERIOD_S, 1.0, moving=True)[0] == pytest.approx(strayed)
    playback.advance(0.5, 1.0, moving=True)
    assert playback.played_s == was_s, "the actions wait"
    rows = played(playback, 1.0)
    assert np.abs(np.diff(rows[:, :12], axis=0)).max() / 0.005 < 0.5
    assert playback.done


@pytest.mark.parametrize("step_s", [0.001, 0.01, 0.07])
def test_how_often_it_is_looked_at_changes_nothing(step_s: float) -> None:
    playback = Playback(actions())
    playback.begin(actions().set_point[0] - 0.02)
    at_s = 0.0
    while at_s < 1.0:
        playback.advance(step_s, 0.7, moving=at_s < 0.6)
        at_s += step_s
    whole = Playback(actions())
    whole.begin(actions().set_point[0] - 0.02)
    whole.advance(round(0.6 / step_s + 0.499) * step_s, 0.7, moving=True)
    whole.advance(1.0, 0.7, moving=False)
    assert playback.played_s == pytest.approx(whole.played_s, abs=0.02)


@pytest.mark.parametrize("away", [FAR_RAD + 0.01, -FAR_RAD - 0.01, float("nan"), float("inf")])
def test_a_start_far_away_is_refused_on_both_sides_and_named(away: float) -> None:
    start = np.array(actions().set_point[0])
    start[8] += away
    refusal = Playback(actions()).refusal(start)
    assert refusal is not None
    assert refusal.startswith("right joint 3 stands")


@pytest.mark.parametrize("speed", [0.0, 0.09, 1.1, -1.0, float("nan")])
def test_a_speed_out_of_range_is_refused(speed: float) -> None:
    with pytest.raises(ConfigError, match=r"speed must be 0\.1 to 1\.0"):
        checked_speed(speed)
