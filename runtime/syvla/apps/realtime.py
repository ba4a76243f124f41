"""Runs episodes on the twin at real time: starts a process for each stage, directs, watches, and ends it all."""

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.live import Live

from syvla.apps import panel
from syvla.apps.director import Director, Episode, Mark, Outcome
from syvla.apps.terminal import pressed_keys
from syvla.clock import to_ns
from syvla.config import RunConfig
from syvla.hosts.supervisor import Exited, Supervisor
from syvla.message import Message
from syvla.messages import Health, Mode, OperatorCommand, RecordingState, SafetyState
from syvla.protocols import Header, Inbox, Received
from syvla.rig import open_bus
from syvla.runs import RunFolder
from syvla.transport.bus import Inlet, Outlet

PANEL_PERIOD_NS = 200_000_000
POLL_S = 0.01  # not at each of a thousand messages a second: the two systems want the cores
# Without these the arms hold at once, also without the one through which a person could take over. Without the planner
# they may go on until the intent's time to live is over, and nobody waits for the recorder.
HOLDS_WHEN_DEAD = ("expert", "cameras", "twin", "teleop")
MARK_KEYS: dict[str, Mark] = {"s": "success", "f": "failure", "d": "discard"}
AFTER_DEATH_S = 3.0  # how long the arms are watched holding when a process has died
HOLD_LIMIT_S = 1.0  # for the arms to come to rest after Ctrl-C
# A model takes a while to load, and enabled arms do not wait for it; cameras that see nothing yet would hold them.
AWAITED = ("health/planner", "health/expert", "cameras")
READY_LIMIT_S = 120.0
STOP_ORDER = ("planner", "expert", "robot", "teleop", "cameras", "recorder", "twin")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunResult(NamedTuple):
    """What a real-time run came to."""

    outcomes: Sequence[Outcome]
    whole: bool  # every process lived, everything was recorded, every episode ran, and nobody interrupted
    realtime: str  # what the kernel granted the robot stage
    lateness_s: Sequence[float]  # of the 200 Hz ticks
    missed_ticks: int
    notices: Sequence[str]


def run_realtime(
    run: RunConfig,
    episodes: Sequence[Episode],
    folder: RunFolder,
    show: Console | None = None,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> RunResult:
    """Run ``episodes`` at real time over the bus.

    ``show`` is where the panel is drawn, None for nowhere; ``tell`` is called with each outcome as it comes. Ctrl-C
    (or SIGTERM, SIGHUP) holds the arms, closes the recording and ends every process; so does any error here.
    """
    folder.save(run)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, run.bus_folder, ignore_errors=True)  # ours alone, by its name and mode
        signals = stack.enter_context(caught_signals())
        director = Director(episodes, attended=run.joystick)
        inlet, outlet = open_bus(run, "console", (*panel.READS, *director.reads, *_awaited(run)))
        stack.callback(inlet.close)
        stack.callback(outlet.close)
        supervisor = Supervisor(folder.commands(run.joystick), folder.logs)
        stack.callback(supervisor.close)
        live = stack.enter_context(Live(console=show, auto_refresh=False)) if show is not None else None
        keys = (stack.enter_context(pressed_keys()) if show is not None else None) or (lambda: "")
        desk = _Desk(run, director, inlet, outlet, live, tell, keys)
        try:
            supervisor.start()
            desk.serve(supervisor, folder, signals)
        finally:
            supervisor.stop(STOP_ORDER)
        desk.listen()
        desk.draw()
    return desk.result()


def _awaited(run: RunConfig) -> tuple[str, ...]:
    """What must be heard of before an episode begins: both systems, and the process of the person who watches them."""
    return (*AWAITED, *(("health/teleop",) if run.joystick else ()))


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """The signals that asked for the end, as they come."""
    caught: list[int] = []
    previous = {number: signal.signal(number, lambda n, _: caught.append(n)) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Desk:
    """The operator's place: directs, sees everything, and draws it."""

    def __init__(
        self,
        run: RunConfig,
        director: Director,
        inlet: Inlet,
        outlet: Outlet,
        live: Live | None,
        tell: Callable[[Outcome], None],
        keys: Callable[[], str],
    ) -> None:
        self._run = run
        self._keys = keys
        self._director = director
        self._inlet = inlet
        self._outlet = outlet
        self._live = live
        self._tell = tell
        self._latest: dict[str, Received] = {}
        self._lateness_s: list[float] = []
        self._missed_ticks = 0
        self._realtime = "unknown"
        self._recording_error = ""
        self._notices: list[str] = []
        self._troubled = False

    def serve(self, supervisor: Supervisor, folder: RunFolder, signals: Sequence[int]) -> None:
        """Direct the episodes to their end, or hold the arms when something ends them early."""
        next_step_ns = next_panel_ns = started_ns = time.monotonic_ns()
        dead_ns: int | None = None
        while dead_ns is not None or not self._director.finished:
            time.sleep(POLL_S)
            self.listen()
            for key in self._keys():
                if key in MARK_KEYS:
                    self._director.mark(MARK_KEYS[key])
            now_ns = time.monotonic_ns()
            for exited in supervisor.poll():
                self._bury(exited, folder, now_ns)
                dead_ns = dead_ns or now_ns
            if signals:
                self._trouble(f"{signal.Signals(signals[0]).name}: holding the arms")
                self._director.abandon("interrupted")
                self._hold()
                return
            if dead_ns is not None and now_ns - dead_ns > to_ns(AFTER_DEATH_S):
                return
            if not self._ready(now_ns - started_ns):
                next_step_ns = now_ns
            elif dead_ns is None and now_ns >= next_step_ns:
                next_step_ns = now_ns + self._director.trigger.period_ns
                self._direct(now_ns)
            if now_ns >= next_panel_ns:
                next_panel_ns = now_ns + PANEL_PERIOD_NS
                self.draw()

    def listen(self) -> None:
        """Take in what came."""
        self._outlet.poll()
        for received in self._inlet.drain():
            self._latest[received.header.topic] = received
            message = received.message
            if isinstance(message, Health) and message.process == "robot" and message.lateness_s is not None:
                self._lateness_s.extend(message.lateness_s.tolist())
                self._missed_ticks = message.missed_ticks
                self._realtime = message.realtime
            elif isinstance(message, RecordingState) and message.error not in ("", self._recording_error):
                self._recording_error = message.error
                self._trouble(f"recording: {message.error}")

    def draw(self) -> None:
        """Show the panel of this instant."""
        if self._live is None:
            return
        episode, done = self._director.current, len(self._director.outcomes)
        total = done + self._director.left
        title = f"SyVLA  episode {min(done + 1, total)} of {total}"
        title += f"  {episode.task} ({episode.split})" if episode else ""
        late = self._lateness_s
        quantiles = (float(np.quantile(late, 0.5)), float(np.quantile(late, 0.99))) if late else None
        now_ns = time.monotonic_ns()
        shown = panel.render(self._latest, now_ns, title, self._run.rig.intent, quantiles, self._notices)
        self._live.update(shown, refresh=True)

    def result(self) -> RunResult:
        """What it came to."""
        outcomes = self._director.outcomes
        whole = not self._troubled and all(outcome.ran for outcome in outcomes)
        return RunResult(outcomes, whole, self._realtime, self._lateness_s, self._missed_ticks, self._notices)

    # ------------------------------------------------------------ inside

    def _ready(self, waited_ns: int) -> bool:
        """Whether what is awaited has started; when that takes too long, the episodes are given up."""
        missing = [name for name in _awaited(self._run) if name not in self._latest]
        if missing and waited_ns > to_ns(READY_LIMIT_S) and not self._director.finished:
            why = f"{missing[0].removeprefix('health/')} did not start within {READY_LIMIT_S:g} s"
            self._trouble(why)
            self._director.abandon(why)
        return not missing

    def _direct(self, now_ns: int) -> None:
        known = len(self._director.outcomes)
        for emit in self._director.step(now_ns, Inbox(self._latest, ())):
            self._say(emit.topic, emit.message, now_ns)
        for outcome in self._director.outcomes[known:]:
            self._tell(outcome)

    def _say(self, topic: str, message: Message, now_ns: int) -> None:
        self._outlet.publish(topic, message, now_ns, 0)
        self._latest[topic] = Received(Header(topic, 0, 0, now_ns, 0), message, now_ns, tuple)

    def _trouble(self, notice: str) -> None:
        self._troubled = True
        self._notices.append(notice)

    def _bury(self, exited: Exited, folder: RunFolder, now_ns: int) -> None:
        """Say that a process died. From now on the director is silent: nothing may resume the arms."""
        self._trouble(f"{exited.reason}; see {folder.logs / exited.name}.log")
        self._director.abandon(exited.reason)
        if exited.name in HOLDS_WHEN_DEAD:
            self._ask_hold(now_ns, exited.reason)

    def _ask_hold(self, now_ns: int, lost: str = "") -> None:
        command = OperatorCommand(command_id=now_ns, issued_ns=now_ns, action="hold", lost=lost)
        self._say("operator", command, now_ns)

    def _hold(self) -> None:
        """Ask for a hold and wait until the gate says that it holds (or the robot stage does not answer)."""
        self._ask_hold(time.monotonic_ns())
        end_s = time.monotonic() + HOLD_LIMIT_S
        while time.monotonic() < end_s and self._mode() in (Mode.ENABLED, Mode.OVERRIDE):
            time.sleep(POLL_S)
            self.listen()

    def _mode(self) -> Mode | None:
        received = self._latest.get("safety")
        return received.message.mode if received and isinstance(received.message, SafetyState) else None
