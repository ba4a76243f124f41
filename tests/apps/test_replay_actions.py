"""Recorded actions on the twin again: through the same gate, from any near start, paused, slowed down and aborted."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syvla.apps.replay_actions import PlaybackDirector, playback_run, recorded_table
from syvla.control.gamepad import Button
from syvla.errors import ConfigError
from syvla.hosts.lockstep import LockstepHost
from syvla.messages import (
    ARMS,
    EpisodeControl,
    JointCommand,
    Mode,
    OperatorCommand,
    PlaybackControl,
    PlaybackState,
    SafetyState,
    SimTruth,
    Source,
)
from syvla.protocols import Emit, GamepadState, Inbox, Stage
from syvla.recording.mcap_read import Recording
from syvla.rig import TWIN_PERIOD_NS, robot_stage, twin_world
from syvla.runs import load_rig, lockstep_run, realtime_run
from syvla.sim.twin_arm import TwinArm
from syvla.stages.playback import PlaybackStage
from syvla.stages.recorded_actions import load_actions
from syvla.stages.recorder import RecorderStage
from syvla.stages.twin import TwinStage

SLICE_NS = 50_000_000


class Controller:
    """A game controller whose deadman is pressed after a second, and held as long as that is wanted."""

    held = True
    ends = False
    since_s = 1.0

    def read(self, now_ns: int) -> GamepadState | None:
        buttons = [False] * 15
        buttons[Button.LEFT_SHOULDER] = self.held and now_ns >= self.since_s * 1e9
        buttons[Button.B] = self.ends
        return GamepadState(now_ns, [0.0] * 6, buttons)

    def close(self) -> None:
        return


@dataclasses.dataclass
class Played:
    """What came of it."""

    director: PlaybackDirector
    commands: list[JointCommand]
    modes: list[Mode]
    phases: list[str]
    success: bool
    seconds: float


class Witness(RecorderStage):
    """Keeps what matters."""

    def __init__(self) -> None:
        self.commands: list[JointCommand] = []
        self.modes: list[Mode] = []
        self.phases: list[str] = []

    def step(self, now_ns: int, inbox: Any) -> Sequence[Any]:
        for received in inbox.fresh:
            message = received.message
            if isinstance(message, JointCommand):
                self.commands.append(message)
            elif isinstance(message, SafetyState):
                self.modes.append(message.mode)
            elif isinstance(message, PlaybackState) and self.phases[-1:] != [message.phase]:
                self.phases.append(message.phase)
        return ()

    stopped = True

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


def play(
    path: Path,
    speed: float = 1.0,
    controller: Controller | None = None,
    meanwhile: Callable[[LockstepHost, PlaybackDirector, float], None] = lambda host, director, at_s: None,
    limit_s: float = 60.0,
) -> Played:
    """The actions of ``path`` on a fresh twin in lockstep."""
    recording = Recording(path)
    run = lockstep_run("twin", 0.0, 0.0, "reference")
    world = twin_world(run)
    director = PlaybackDirector("again", recorded_table(recording), speed)
    witness = Witness()
    deadman = None if controller is None else lambda: controller
    stages: list[Stage] = [
        TwinStage(world, (), TWIN_PERIOD_NS),
        robot_stage(run, {arm: TwinArm(arm, world.plant(arm)) for arm in ARMS}),
        PlaybackStage(load_actions(recording, run.rig), run.rig, run.policy, deadman),
        director,
        witness,
    ]
    host = LockstepHost(stages)
    success = False
    while not director.outcome and host.now_ns < limit_s * 1e9:
        host.run_until(host.now_ns + SLICE_NS)
        meanwhile(host, director, round(host.now_ns / 1e9, 3))
        truth = host.message("sim/truth")
        success = success or (isinstance(truth, SimTruth) and truth.success)
    result = Played(director, witness.commands, list(witness.modes), witness.phases, success, host.now_ns / 1e9)
    host.stop()
    return result


def test_what_was_done_is_done_again(episode: Path) -> None:
    result = play(episode)
    assert result.director.outcome == "done"
    assert result.success, "the same motions on the same table"
    assert Mode.HOLD not in result.modes
    assert {c.provenance.source for c in result.commands} <= {Source.POLICY, Source.HOLD}
    recorded = load_actions(Recording(episode), load_rig("twin"))
    assert result.seconds == pytest.approx(recorded.duration_s, abs=4.0)


def test_at_half_the_speed_it_takes_twice_as_long(episode: Path) -> None:
    recorded = load_actions(Recording(episode), load_rig("twin"))
    result = play(episode, speed=0.5)
    assert result.director.outcome == "done"
    assert result.seconds == pytest.approx(2 * recorded.duration_s, abs=4.0)
    position = np.array([c.position_rad for c in result.commands])
    assert np.abs(np.diff(position, axis=0)).max() / 0.005 < 1.6, "half of what the reference moves with"


def test_a_pause_stands_and_goes_on(episode: Path) -> None:
    def meanwhile(host: LockstepHost, director: PlaybackDirector, at_s: float) -> None:
        if abs(at_s - 4.0) < 0.01 or abs(at_s - 7.0) < 0.01:
            director.press(" ")

    result = play(episode, meanwhile=meanwhile)
    assert result.director.outcome == "done"
    assert "paused" in result.phases
    standing = [c.position_rad for c in result.commands if 4.6e9 < c.commanded_ns < 6.9e9]
    assert np.ptp(np.array(standing), axis=0).max() < 1e-4
    assert result.success


def positions(played: Played, from_s: float, to_s: float) -> np.ndarray:
    return np.array([c.position_rad for c in played.commands if from_s * 1e9 <= c.commanded_ns < to_s * 1e9])


def fastest_s(played: Played) -> float:
    """When a joint was fastest, of those that play."""
    every = [c for c in played.commands if c.provenance.source is Source.POLICY]
    speed = np.abs(np.diff([c.position_rad for c in every], axis=0)).max(axis=1)
    return every[int(speed.argmax())].commanded_ns / 1e9


def test_an_arm_at_full_speed_comes_to_rest_when_the_deadman_is_let_go_and_goes_on_when_it_is_pressed(
    episode: Path,
) -> None:
    """It once went on for up to 0.7 rad: what was to make it stand began behind the arm, and was refused."""
    let_go_s = round(fastest_s(play(episode, controller=Controller())), 2)
    controller = Controller()

    def meanwhile(host: LockstepHost, director: PlaybackDirector, at_s: float) -> None:
        if at_s >= let_go_s - 0.05:
            host.run_until(max(host.now_ns, round(let_go_s * 1e9)))
        controller.held = not let_go_s <= host.now_ns / 1e9 < let_go_s + 2.0

    result = play(episode, controller=controller, meanwhile=meanwhile)
    before = positions(result, let_go_s - 0.05, let_go_s)
    assert np.abs(np.diff(before, axis=0)).max() / 0.005 > 1.0, "it was under way"
    stopping = positions(result, let_go_s, let_go_s + 2.0)
    standing_from = int(np.flatnonzero(np.abs(np.diff(stopping, axis=0)).max(axis=1) > 1e-5)[-1]) + 1
    assert standing_from * 0.005 < 0.45, "a step of the stage, the ramp, and what was under way"
    speed = np.abs(np.diff(before, axis=0)).max() / 0.005
    assert np.abs(stopping[-1] - stopping[0]).max() < 0.3 * speed
    assert Mode.HOLD not in result.modes
    assert result.director.outcome == "done"
    assert result.success, "it went on from there"


def test_a_late_step_does_not_throw_the_arms_back(episode: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 250 ms without a chunk it began anew from where the arms were measured, behind where they had been sent."""
    fast_ns = round(fastest_s(play(episode)) * 1e9)
    step = PlaybackStage.step

    def late(self: PlaybackStage, now_ns: int, inbox: Inbox) -> Sequence[Emit]:
        return () if fast_ns - 50_000_000 < now_ns < fast_ns + 250_000_000 else step(self, now_ns, inbox)

    monkeypatch.setattr(PlaybackStage, "step", late)
    result = play(episode)
    assert (result.director.outcome, result.success) == ("done", True)
    path = load_actions(Recording(episode), load_rig("twin")).set_point[:, :12]
    sent = positions(result, fast_ns / 1e9 - 0.1, fast_ns / 1e9 + 0.8)
    apart = np.abs(sent[:, None] - path[None]).max(axis=2)
    assert apart.min(axis=1).max() < 0.02, "on its way all the time"
    row = int(apart[0].argmin())
    for distances in apart:  # within a second: the arms come by the same place more than once, and stand there
        behind, ahead = distances[max(row - 100, 0) : row - 1], distances[row - 1 : row + 100]
        assert behind.min() > ahead.min() - 0.001, "and never back"
        row += int(ahead.argmin()) - 1


def test_a_deadman_that_was_never_let_go_moves_nothing(episode: Path) -> None:
    controller = Controller()
    controller.since_s = 0.0
    taped = play(episode, controller=controller, limit_s=6.0)
    controller.held = False
    never = play(episode, controller=controller, limit_s=6.0)
    for result in (taped, never):
        assert np.ptp(positions(result, 0.0, 6.0), axis=0).max() < 1e-3
        assert result.director.outcome == ""
        assert "paused" in result.phases


def test_b_ends_it(episode: Path) -> None:
    controller = Controller()

    def meanwhile(host: LockstepHost, director: PlaybackDirector, at_s: float) -> None:
        controller.ends = at_s >= 4.0

    result = play(episode, controller=controller, meanwhile=meanwhile)
    assert result.director.outcome == "ended at the controller"
    assert result.seconds < 4.5


def test_nothing_moves_when_whoever_could_pause_it_is_not_heard(episode: Path) -> None:
    def meanwhile(host: LockstepHost, director: PlaybackDirector, at_s: float) -> None:
        if at_s == 4.0:
            director.step = lambda now_ns, inbox: ()  # type: ignore[method-assign]  # as a console that hangs

    result = play(episode, meanwhile=meanwhile, limit_s=8.0)
    assert np.ptp(positions(result, 3.0, 4.0), axis=0).max() > 0.05
    assert np.ptp(positions(result, 4.9, 8.0), axis=0).max() < 1e-4


def test_a_hold_ends_it(episode: Path) -> None:
    def hold(host: LockstepHost, director: PlaybackDirector, at_s: float) -> None:
        if abs(at_s - 4.0) < 0.01:
            host.inject("operator", OperatorCommand(command_id=99, issued_ns=host.now_ns, action="hold"))

    result = play(episode, meanwhile=hold)
    assert "the arms hold; operator_hold" in result.director.outcome


@pytest.mark.parametrize("attended", [True, False])
def test_a_console_that_was_away_is_paused_when_it_is_back(episode: Path, attended: bool) -> None:
    """The arms stood because it was not heard; they once went on by themselves, ten minutes later."""

    def meanwhile(host: LockstepHost, director: PlaybackDirector, at_s: float) -> None:
        director.attended = attended
        if at_s == 4.0:
            director._step_ns = host.now_ns - 700_000_000
        elif at_s == 5.0:
            assert director.paused
            director.press(" ")

    result = play(episode, meanwhile=meanwhile)
    if attended:
        assert (result.director.outcome, result.success) == ("done", True)
        assert "paused" in result.phases
    else:
        assert "there is no terminal to go on from" in result.director.outcome


def test_keys_change_the_speed_within_its_bounds() -> None:
    director = PlaybackDirector("a", None, 0.95)
    for key, speed in (("+", 1.0), ("+", 1.0), ("-", 0.9)):
        director.press(key)
        assert director.speed == speed
    for _ in range(20):
        director.press("-")
    assert director.speed == 0.1


def test_a_robot_needs_no_policy_and_no_cameras_but_a_controller(
    episode: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference policy is the default of a run and reads the twin's truth: no robot could have played anything."""
    run = realtime_run("cobot_magic", 0.0, 0.0, playback=episode)
    assert run.playback == str(episode)
    with pytest.raises(ConfigError, match="is of rig 'twin'"):
        playback_run(episode, "cobot_magic")

    def missing() -> None:
        raise ConfigError("no controller")

    monkeypatch.setattr("syvla.runs.check_teleop", missing)
    with pytest.raises(ConfigError, match="no controller"):
        realtime_run("cobot_magic", 0.0, 0.0, playback=episode)
    assert realtime_run("twin", 0.0, 0.0, playback=episode).playback


def test_at_the_end_the_arms_hold_for_good_and_the_recording_is_marked(episode: Path) -> None:
    director = PlaybackDirector("a", None, 0.5)
    assert not director.marks(7), "nothing was recorded"
    hold, control = (emit.message for emit in director.ends(7, "the expert died"))
    assert isinstance(hold, OperatorCommand)
    assert (hold.action, hold.lost) == ("hold", "the expert died")
    assert isinstance(control, PlaybackControl)
    assert (control.paused, control.speed) == (True, 0.5), "an operator who resumes the arms starts nothing"

    def abort(host: LockstepHost, director: PlaybackDirector, at_s: float) -> None:
        if at_s > 4.0:
            director.press("q")

    result = play(episode, meanwhile=abort)
    (mark,) = (emit.message for emit in result.director.marks(7))
    assert isinstance(mark, EpisodeControl)
    assert (result.director.outcome, mark.action) == ("aborted", "failure")
