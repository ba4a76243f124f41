"""Recorded actions as a trajectory: never fast towards the start, never a jump, nothing while nothing is to move."""

import numpy as np
import pytest

from syvla.control.playback import APPROACH_RAD_S, FAR_RAD, KEPT_NS, RAMP_S, Actions, Playback, checked_speed
from syvla.errors import ConfigError

PERIOD_S = 1 / 30


def actions(seconds: float = 4.0) -> Actions:
    """A slow swing of every joint, from 0.1 rad on."""
    at_s = np.arange(0.0, seconds, 0.005)
    set_point = 0.1 + 0.3 * np.sin(at_s)[:, None] * np.linspace(0.2, 1.0, 14)
    return Actions(at_s, set_point)


PERIOD_NS = round(PERIOD_S * 1e9)
MS = 1_000_000


def played(playback: Playback, speed: float, from_ns: int = 0, step_ms: int = 50, most: int = 10_000) -> np.ndarray:
    """What is commanded by a robot that executes each chunk until the next one comes, every 5 ms."""
    rows, now_ns = [], from_ns
    for _ in range(most):
        if playback.done:
            break
        playback.wish(now_ns, speed, moving=True)
        chunk = playback.rows(16, PERIOD_NS)
        at_s = np.arange(0, step_ms, 5) / 1e3
        rows += [[np.interp(t, np.arange(16) * PERIOD_S, chunk[:, j]) for j in range(14)] for t in at_s]
        now_ns += step_ms * MS
        playback.advance(now_ns)
    return np.array(rows)


def under_way(playback: Playback, seconds: float, speed: float) -> int:
    """Play for so long, told again and again as in a run; when that is over [ns]."""
    for now_ns in range(0, round(seconds * 1e9), 10 * MS):
        playback.advance(now_ns)
        playback.wish(now_ns, speed, moving=True)
    end_ns = round(seconds * 1e9)
    playback.advance(end_ns)
    return end_ns


def test_between_two_commands_there_is_a_straight_line_and_nothing_beyond_the_ends() -> None:
    found = Actions(np.array([0.0, 1.0, 3.0]), np.array([[0.0] * 14, [1.0] * 14, [2.0] * 14]))
    assert [found.at(t)[0] for t in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0)] == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert found.duration_s == 3.0


def test_the_start_is_approached_slowly_and_met_exactly() -> None:
    playback = Playback(actions())
    start = actions().set_point[0] - np.array([0.4] * 12 + [0.001] * 2)
    assert playback.refusal(start) is None
    playback.begin(0, start)
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
    playback.begin(0, actions().set_point[0])
    rows = played(playback, speed)
    assert len(rows) * 0.005 == pytest.approx(actions().duration_s / speed + RAMP_S / 2, abs=0.1)
    started = round(RAMP_S / 0.005) + 10
    expected = np.array([actions().at((k * 0.005 - speed * RAMP_S / 2) * speed) for k in range(len(rows))])
    assert np.abs(rows - expected)[started:].max() < 3e-3  # the curve between two rows of 33 ms is a line


@pytest.mark.parametrize("lead_ms", [0, 20, 200])
@pytest.mark.parametrize("speed", [0.1, 1.0])
def test_it_comes_to_rest_along_its_way_and_starts_as_gently(speed: float, lead_ms: int) -> None:
    """What has been sent already is executed before anything else can be: a pause once began behind the arms."""
    playback = Playback(actions())
    playback.begin(0, actions().set_point[0])
    now_ns = under_way(playback, 1.0, speed)
    was_s = playback.played_s
    assert was_s == pytest.approx(speed * (1.0 - speed * RAMP_S / 2)), "less what the start took"
    was = playback.rows(lead_ms // 5 + 2, 5 * MS)
    playback.wish(now_ns + lead_ms * MS, speed, moving=False)
    rows = playback.rows(160, 5 * MS)
    assert np.abs(rows[: lead_ms // 5 + 1] - was[:-1]).max() == 0.0, "what has been sent stays"
    velocity = np.diff(rows, axis=0) / 0.005
    way = actions().at(was_s + 0.005 * speed) - actions().at(was_s)
    assert (velocity * np.sign(way) >= -1e-9).all(), "never back"
    ramp = round(speed * RAMP_S / 0.005) + lead_ms // 5
    assert np.ptp(rows[ramp + 1 :], axis=0).max() < 1e-12, "and then it stands"
    stands_s = was_s + speed * lead_ms / 1e3 + speed * speed * RAMP_S / 2
    assert rows[-1] == pytest.approx(actions().at(stands_s), abs=1e-6)
    playback.advance(now_ns + 10**10)
    assert playback.played_s == pytest.approx(stands_s)
    playback.wish(now_ns + 10**10, speed, moving=True)
    again = playback.rows(100, 5 * MS)
    assert np.abs(np.diff(again[:3], axis=0)).max() < 1e-3 * speed


def test_it_comes_to_rest_by_itself_when_nothing_more_is_said_and_goes_on_without_a_jump() -> None:
    """A step that came late once led the arms back to where they had been measured."""
    playback = Playback(actions())
    playback.begin(0, actions().set_point[0])
    now_ns = under_way(playback, 1.0, 1.0)
    rows = playback.rows(200, 5 * MS)
    assert (np.diff(rows, axis=0) * np.sign(rows[1] - rows[0]) >= -1e-9).all()
    assert np.ptp(rows[(KEPT_NS // MS + 250) // 5 + 2 :], axis=0).max() < 1e-12
    late_ns = now_ns + 400 * MS
    playback.advance(late_ns)
    assert playback.rows(1, PERIOD_NS)[0] == pytest.approx(rows[80], abs=1e-6), "where what was sent has led"
    playback.wish(late_ns + 20 * MS, 1.0, moving=True)
    onward = playback.rows(100, 5 * MS)
    assert (np.diff(onward, axis=0) * np.sign(rows[1] - rows[0]) >= -1e-9).all()


def test_after_a_stop_it_is_approached_again_and_gone_on_with() -> None:
    playback = Playback(actions())
    playback.begin(0, actions().set_point[0])
    now_ns = under_way(playback, 2.0, 1.0)
    was_s = playback.played_s
    strayed = actions().at(was_s) + 0.15
    playback.begin(now_ns, strayed)
    assert playback.approaching
    assert playback.rows(1, PERIOD_NS)[0] == pytest.approx(strayed)
    playback.wish(now_ns, 1.0, moving=True)
    playback.advance(now_ns + 200 * MS)
    assert playback.played_s == was_s, "the actions wait"
    rows = played(playback, 1.0, now_ns + 200 * MS)
    assert np.abs(np.diff(rows[:, :12], axis=0)).max() / 0.005 < 0.5
    assert playback.done


def test_what_was_not_executed_is_played_again() -> None:
    playback = Playback(actions())
    playback.begin(0, actions().set_point[0])
    under_way(playback, 1.0, 1.0)
    playback.rewind(0.5)
    assert playback.played_s == 0.5
    playback.rewind(3.0)
    assert playback.played_s == 0.5, "never forward"


@pytest.mark.parametrize("step_ms", [1, 10, 70])
def test_how_often_it_is_looked_at_changes_nothing(step_ms: int) -> None:
    found = []
    for each_ms in (step_ms, 1000):
        playback = Playback(actions())
        playback.begin(0, actions().set_point[0] - 0.02)
        playback.wish(0, 0.7, moving=True)
        for now_ns in range(0, 1000 * MS, each_ms * MS):
            playback.advance(now_ns)
        playback.advance(1000 * MS)
        found.append(playback.played_s)
    assert found[0] == pytest.approx(found[1], abs=0.01)


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
