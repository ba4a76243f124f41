"""``syvla replay actions``: the recorded joint commands again, on the twin or on the robot, through the safety gate.

The same processes as in a run, without planner and cameras; recorded actions stand in the expert's place. The keys of
the terminal pause, slow down and abort.
"""

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from syvla.apps.realtime import AFTER_DEATH_S, HOLDS_WHEN_DEAD, POLL_S, STOP_ORDER, caught_signals
from syvla.apps.terminal import GONE, pressed_keys
from syvla.clock import to_ns, to_s
from syvla.config import RunConfig
from syvla.control.playback import SPEEDS, checked_speed
from syvla.hosts.supervisor import Supervisor
from syvla.messages import (
    EpisodeControl,
    Mode,
    OperatorCommand,
    PlaybackControl,
    PlaybackState,
    RecordingState,
    SafetyState,
    SimReset,
    SimTruth,
)
from syvla.protocols import Emit, Inbox, Periodic, Received
from syvla.recording.mcap_read import Recording
from syvla.rig import open_bus
from syvla.runs import RunFolder, load_rig, realtime_run
from syvla.stages.recorded_actions import load_actions
from syvla.transport.bus import Outlet

PERIOD_NS = 50_000_000
REPEAT_NS = 1_000_000_000
PREPARE_LIMIT_NS = 30_000_000_000
HELD = (Mode.HOLD, Mode.SOFT_STOP, Mode.FAULT)
STAGES = ("twin", "robot", "expert", "recorder")
KEYS = (("space", "pause, go on"), ("+ -", "faster, slower"), ("q", "abort: the arms hold"))
SPEED_STEP = 0.1
DEADMAN_WORDS = "hold the controller's deadman (LB): the arms move only while it is held; B ends it"
LATE_NS = 500_000_000
MARKED_S = 0.2  # until the recorder has closed the episode


class PlaybackDirector:
    """Lays the recorded table on a twin, enables the arms, lets the actions be played, and sees them to their end.

    ``outcome`` is empty while it goes on, then ``done`` or why not.
    """

    name = "console"
    reads = ("sim/truth", "safety", "playback/state", "recording")
    writes = ("operator", "episode", "playback", "sim/reset")
    trigger = Periodic(PERIOD_NS)
    lossless = False
    stopped = True

    def __init__(self, name: str, reset: SimReset | None, speed: float) -> None:
        self.outcome = ""
        self.attended = True  # whether somebody can press a key
        self.speed, self.paused = checked_speed(speed), False
        self._name = name
        self._reset = reset
        self._laid = reset is None
        self._begun_ns: int | None = None
        self._started = False
        self._asked_ns: int | None = None
        self._step_ns: int | None = None
        self._commands = self._controls = 0

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Advance the script."""
        self._begun_ns = self._begun_ns or now_ns
        if self._started and self._step_ns is not None and now_ns - self._step_ns > LATE_NS:
            self._was_away(now_ns - self._step_ns)
        self._step_ns = now_ns
        safety, state, truth = inbox.get("safety"), inbox.get("playback/state"), inbox.get("sim/truth")
        if self.outcome:
            return
        if not self._laid and self._reset is not None:
            if self._due(now_ns):
                yield Emit("sim/reset", self._reset)
            self._laid = isinstance(truth, SimTruth) and truth.reset_id == self._reset.reset_id
            self._asked_ns = None if self._laid else self._asked_ns
        elif isinstance(safety, SafetyState) and isinstance(state, PlaybackState):
            yield from self._watch(now_ns, safety, state)
        if not self._started and not self.outcome and now_ns - self._begun_ns > PREPARE_LIMIT_NS:
            self.outcome = "the arms were not enabled" + self._why(safety)

    def _was_away(self, for_ns: int) -> None:
        """It was not heard, and the arms stand: they go on when somebody says so, if anybody can."""
        self.paused = True
        if not self.attended:
            self.outcome = self.outcome or f"not heard for {to_s(for_ns):.1f} s, and there is no terminal to go on from"

    def _watch(self, now_ns: int, safety: SafetyState, state: PlaybackState) -> Iterator[Emit]:
        if state.phase == "refused":
            self.outcome = state.refusal
        elif state.phase == "ended":
            self.outcome = "ended at the controller"
        elif not self._started and safety.mode is Mode.ENABLED:
            self._started = True
            yield Emit("episode", EpisodeControl(action="start", name=self._name, issued_ns=now_ns))
        elif safety.mode in HELD:  # what latched is a person's to clear
            self.outcome = "the arms hold" + self._why(safety)
        elif not self._started:
            if self._due(now_ns):
                yield self._operate(now_ns, "enable")
        elif state.phase == "done":
            self.outcome = "done"
        if self._started and not self.outcome:
            yield self._control(now_ns, self.paused)

    def ends(self, now_ns: int, lost: str = "") -> tuple[Emit, ...]:
        """What ends it: the arms hold, and whoever resumes them, nothing is played to them any more."""
        hold = OperatorCommand(command_id=now_ns, issued_ns=now_ns, action="hold", lost=lost)
        return Emit("operator", hold), self._control(now_ns, True)

    def marks(self, now_ns: int) -> tuple[Emit, ...]:
        """What the recording is marked with, if there is one."""
        action = "success" if self.outcome == "done" else "failure"
        mark = EpisodeControl(action=action, name=self._name, issued_ns=now_ns)  # type: ignore[arg-type]
        return (Emit("episode", mark),) if self._started else ()

    def _control(self, now_ns: int, paused: bool) -> Emit:
        """Said anew in every step: without it nothing moves."""
        self._controls += 1
        control = PlaybackControl(control_id=self._controls, issued_ns=now_ns, speed=self.speed, paused=paused)
        return Emit("playback", control)

    def _due(self, now_ns: int) -> bool:
        """Whether something that had no effect yet is to be said (again)."""
        if self._asked_ns is not None and now_ns - self._asked_ns < REPEAT_NS:
            return False
        self._asked_ns = now_ns
        return True

    def _operate(self, now_ns: int, action: str) -> Emit:
        self._commands += 1
        command = OperatorCommand(command_id=self._commands, issued_ns=now_ns, action=action)  # type: ignore[arg-type]
        return Emit("operator", command)

    @staticmethod
    def _why(safety: object) -> str:
        reasons = safety.reasons if isinstance(safety, SafetyState) else ()
        return "".join(f"; {reason.code}: {reason.detail}" for reason in reasons)

    def press(self, key: str) -> None:
        """What a key of the terminal does."""
        if key == " ":
            self.paused = not self.paused
        elif key in "+-":
            step = SPEED_STEP if key == "+" else -SPEED_STEP
            self.speed = min(max(round(self.speed + step, 2), SPEEDS[0]), SPEEDS[1])
        elif key in ("q", GONE):
            self.outcome = self.outcome or "aborted"

    def request_stop(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing is owned."""


def recorded_table(recording: Recording) -> SimReset | None:
    """How the twin's table lay, if it was one."""
    resets = [r.message for r in recording.messages({"sim/reset"}) if isinstance(r.message, SimReset)]
    return resets[0] if resets else None


def playback_run(path: Path, rig: str) -> RunConfig:
    """The run that plays the actions of the recording at ``path`` on ``rig``; whatever speaks against it is raised."""
    load_actions(Recording(path), load_rig(rig))
    return realtime_run(rig, 0.0, 0.0, playback=path)


def play_actions(path: Path, rig: str, speed: float, runs: Path, tell: Callable[[str], None]) -> int:
    """Play them; the exit status: 0 where they were played to their end."""
    checked_speed(speed)
    run = playback_run(path, rig)
    recording = Recording(path)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", path.name.split(".mcap")[0])[:80]
    folder = RunFolder.create(runs, "actions")
    folder.save(run)
    tell(f"run folder {folder.path}")
    for key, does in KEYS:
        tell(f"  {key:8s}{does}")
    if run.rig.kind != "twin":
        tell(DEADMAN_WORDS)
    reset = recorded_table(recording) if run.rig.kind == "twin" else None
    director = PlaybackDirector(f"{name}-again", reset, speed)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, run.bus_folder, ignore_errors=True)
        signals = stack.enter_context(caught_signals())
        inlet, outlet = open_bus(run, "console", director.reads)
        stack.callback(inlet.close)
        stack.callback(outlet.close)
        wanted = [stage for stage in STAGES if stage != "twin" or run.rig.kind == "twin"]
        commands = {stage: argv for stage, argv in folder.commands().items() if stage in wanted}
        supervisor = Supervisor(commands, folder.logs)
        stack.callback(supervisor.close)
        typed = stack.enter_context(pressed_keys())
        director.attended = typed is not None
        keys = typed or (lambda: "")
        try:
            supervisor.start()
            _serve(director, supervisor, inlet.drain, outlet, keys, signals, tell)
        finally:
            supervisor.stop(STOP_ORDER)
    tell(director.outcome if director.outcome != "done" else f"done; recorded in {folder.recordings}")
    return 0 if director.outcome == "done" else 1


def _serve(
    director: PlaybackDirector,
    supervisor: Supervisor,
    drain: Callable[[], Sequence[Received]],
    outlet: Outlet,
    keys: Callable[[], str],
    signals: Sequence[int],
    tell: Callable[[str], None],
) -> None:
    """Direct to the end; then, and when something ends it early, the arms are asked to hold."""
    latest: dict[str, Received] = {}
    said, next_ns = "", time.monotonic_ns()
    end_ns: int | None = None
    lost = error = ""
    while end_ns is None or time.monotonic_ns() < end_ns:
        time.sleep(POLL_S)
        outlet.poll()
        latest.update({received.header.topic: received for received in drain()})
        now_ns = time.monotonic_ns()
        for key in keys():
            director.press(key)
        for exited in supervisor.poll():
            lost = lost or (exited.reason if exited.name in HOLDS_WHEN_DEAD else "")
            director.outcome = director.outcome or exited.reason
        if signals:
            director.outcome = director.outcome or "interrupted"
        if now_ns >= next_ns and end_ns is None:
            next_ns = now_ns + PERIOD_NS
            _publish(outlet, director.step(now_ns, Inbox(latest, ())), now_ns)
        said = _tell_state(latest, said, tell)
        recording = latest.get("recording")
        if recording is not None and isinstance(state := recording.message, RecordingState) and state.error != error:
            error = state.error
            tell(f"NOT RECORDED: {error}")
        if director.outcome and end_ns is None:
            _publish(outlet, director.ends(now_ns, lost), now_ns)
            end_ns = now_ns + to_ns(AFTER_DEATH_S if director.outcome != "done" else 0.5)
    _publish(outlet, director.marks(end_ns), end_ns)
    while time.monotonic_ns() < end_ns + to_ns(MARKED_S):
        time.sleep(POLL_S)
        outlet.poll()


def _publish(outlet: Outlet, emits: Iterable[Emit], now_ns: int) -> None:
    for emit in emits:
        outlet.publish(emit.topic, emit.message, now_ns, 0)


def _tell_state(latest: dict[str, Received], said: str, tell: Callable[[str], None]) -> str:
    received = latest.get("playback/state")
    state = None if received is None else received.message
    if not isinstance(state, PlaybackState):
        return said
    words = f"{state.phase}, speed {state.speed:g}"
    second = f"{words} {int(state.played_s)}"
    if second != said:
        tell(f"{state.played_s:6.1f} of {state.duration_s:.1f} s  {words}")
    return second
