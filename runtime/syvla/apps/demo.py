"""``syvla demo``: the whole loop on the twin, a process for each stage, with a live panel and a report at the end."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import zmq
from rich.console import Console, RenderableType
from rich.live import Live

from syvla.apps import panel
from syvla.apps.director import Director, Episode, Outcome
from syvla.clock import to_ns
from syvla.config import RunConfig
from syvla.hosts.supervisor import Supervisor
from syvla.message import Message
from syvla.messages import Health, Mode, OperatorCommand, SafetyState
from syvla.protocols import Header, Inbox, Received
from syvla.report.write import write_report
from syvla.rig import RunFolder, open_bus
from syvla.transport.bus import Inlet, Outlet

PANEL_HZ = 5.0
# Without these the arms hold at once. Without the planner they may go on until the intent's time to live is over,
# and nobody waits for the recorder.
HOLDS_WHEN_DEAD = ("expert", "cameras", "twin")
AFTER_DEATH_S = 3.0  # how long the arms are watched holding when a process has died
HOLD_LIMIT_S = 1.0  # for the arms to come to rest after Ctrl-C
STOP_ORDER = ("planner", "expert", "robot", "cameras", "recorder", "twin")


class RunResult(NamedTuple):
    """What a real-time run came to."""

    outcomes: Sequence[Outcome]
    whole: bool  # every process lived to the end and nobody interrupted
    realtime: str  # what the kernel granted the robot stage
    lateness_s: Sequence[float]  # of every 200 Hz tick
    notices: Sequence[str]


class _Watch:
    """What the console knows of the run: the latest of everything, and every tick's lateness."""

    def __init__(self) -> None:
        self.latest: dict[str, Received] = {}
        self.lateness_s: list[float] = []
        self.realtime = "unknown"

    def put(self, messages: Sequence[Received]) -> None:
        for received in messages:
            self.latest[received.header.topic] = received
            message = received.message
            if isinstance(message, Health) and message.process == "robot" and message.lateness_s is not None:
                self.lateness_s.extend(message.lateness_s.tolist())
                self.realtime = message.realtime

    def note(self, topic: str, message: Message, now_ns: int) -> None:
        """Remember what the console itself sent."""
        self.latest[topic] = Received(Header(topic, 0, 0, now_ns, 0), message, now_ns, tuple)

    def quantiles_s(self) -> tuple[float, float] | None:
        if not self.lateness_s:
            return None
        p50, p99 = np.quantile(self.lateness_s, (0.5, 0.99))
        return float(p50), float(p99)

    def mode(self) -> Mode | None:
        received = self.latest.get("safety")
        return received.message.mode if received and isinstance(received.message, SafetyState) else None


def run_realtime(
    run: RunConfig,
    episodes: Sequence[Episode],
    folder: RunFolder,
    show: Console | None = None,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> RunResult:
    """Run ``episodes`` at real time over the bus.

    ``show`` is where the panel is drawn, None for nowhere; ``tell`` is called with each outcome as it comes.

    Ctrl-C (or SIGTERM) holds the arms, closes the recording and ends every process.
    """
    director = Director(episodes)
    watch = _Watch()
    notices: list[str] = []
    folder.save(run)
    supervisor = Supervisor(folder.commands(), folder.logs)
    stopping: list[int] = []
    previous = {
        number: signal.signal(number, lambda n, _: stopping.append(n)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    inlet, outlet = open_bus(run, "console", (*panel.READS, *director.reads))
    poller = zmq.Poller()
    for socket in (*inlet.sockets, *outlet.sockets):
        poller.register(socket, zmq.POLLIN)
    live = Live(console=show, auto_refresh=False, transient=False) if show is not None else None
    whole = True
    try:
        supervisor.start()
        if live is not None:
            live.start()
        next_panel_ns = next_step_ns = time.monotonic_ns()
        end_ns: int | None = None
        while not director.finished and not stopping and (end_ns is None or time.monotonic_ns() < end_ns):
            poller.poll(5)
            outlet.poll()
            watch.put(inlet.drain())
            now_ns = time.monotonic_ns()
            for exited in supervisor.poll():
                whole = False
                end_ns = now_ns + to_ns(AFTER_DEATH_S)
                notices.append(f"{exited.reason}; see {folder.logs / exited.name}.log")
                if exited.name in HOLDS_WHEN_DEAD:
                    _ask_hold(outlet, now_ns)
            if now_ns >= next_step_ns:
                next_step_ns = now_ns + director.trigger.period_ns
                known = len(director.outcomes)
                for topic, message in director.step(now_ns, Inbox(watch.latest, ())):
                    outlet.publish(topic, message, now_ns, 0)
                    watch.note(topic, message, now_ns)
                for outcome in director.outcomes[known:]:
                    tell(outcome)
            if live is not None and now_ns >= next_panel_ns:
                next_panel_ns = now_ns + round(1e9 / PANEL_HZ)
                live.update(_panel(run, director, watch, notices, now_ns, len(episodes)), refresh=True)
        if stopping:
            whole = False
            notices.append(f"{signal.Signals(stopping[0]).name}: holding the arms")
            _hold(outlet, inlet, watch, poller)
    finally:
        supervisor.stop(STOP_ORDER)
        watch.put(inlet.drain())
        if live is not None:
            live.update(_panel(run, director, watch, notices, time.monotonic_ns(), len(episodes)), refresh=True)
            live.stop()
        supervisor.close()
        inlet.close()
        outlet.close()
        shutil.rmtree(run.bus_folder, ignore_errors=True)  # the sockets' folder; ours alone, by its name and mode
        for number, handler in previous.items():
            signal.signal(number, handler)
    return RunResult(director.outcomes, whole, watch.realtime, watch.lateness_s, notices)


def _ask_hold(outlet: Outlet, now_ns: int) -> None:
    outlet.publish("operator", OperatorCommand(command_id=now_ns, issued_ns=now_ns, action="hold"), now_ns, 0)


def _hold(outlet: Outlet, inlet: Inlet, watch: _Watch, poller: zmq.Poller) -> None:
    """Ask for a hold and wait until the gate says that it holds (or the robot stage does not answer)."""
    _ask_hold(outlet, time.monotonic_ns())
    end_s = time.monotonic() + HOLD_LIMIT_S
    while time.monotonic() < end_s and watch.mode() in (Mode.ENABLED, Mode.OVERRIDE):
        poller.poll(5)
        outlet.poll()
        watch.put(inlet.drain())


def _panel(
    run: RunConfig, director: Director, watch: _Watch, notices: Sequence[str], now_ns: int, total: int
) -> RenderableType:
    episode = director.current
    done = len(director.outcomes)
    title = f"SyVLA  episode {min(done + 1, total)} of {total}" + (
        f"  {episode.task} ({episode.split})" if episode else ""
    )
    return panel.render(watch.latest, now_ns, title, run.rig.intent, watch.quantiles_s(), notices)


def demo(run: RunConfig, episodes: Sequence[Episode], folder: RunFolder, console: Console) -> int:
    """Run the demo and write its report; the exit status."""
    console.print(f"run folder [bold]{folder.path}[/]")
    result = run_realtime(run, episodes, folder, console)
    for notice in result.notices:
        console.print(notice, style="yellow", markup=False)
    for outcome in result.outcomes:
        verdict = "[green]done[/]" if outcome.success else f"[red]not done[/] ({outcome.why})"
        console.print(f"{outcome.episode.task}: {verdict} in {outcome.duration_s:.1f} s: {outcome.instruction}")
    _report(folder, result, console)
    if not result.whole:
        console.print("the loop did not run whole", style="bold red")
        return 1
    return 0


def _report(folder: RunFolder, result: RunResult, console: Console) -> None:
    """Write the run's report: pictures of each recording, and one summary.json for the run."""
    summaries: dict[str, Any] = {}
    recordings = sorted(folder.recordings.glob("*.mcap"))
    for number, recording in enumerate(recordings, 1):
        with console.status(f"drawing {recording.name} ({number} of {len(recordings)})"):
            own, *_ = write_report(recording, folder.path)
        summaries[recording.name] = json.loads(own.read_text())
        own.unlink()
    lateness_s = result.lateness_s or [0.0]
    p50, p99, most = (float(q) for q in np.quantile(lateness_s, (0.5, 0.99, 1.0)))
    summary = {
        "whole": result.whole,
        "notices": result.notices,
        "episodes": [{**o._asdict(), "episode": o.episode._asdict()} for o in result.outcomes],
        "control_loop": {
            "realtime": result.realtime,
            "ticks": len(result.lateness_s),
            "lateness_s": {"p50": p50, "p99": p99, "max": most},
        },
        "recordings": summaries,
    }
    (folder.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(
        f"200 Hz loop: lateness p50 {p50 * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us over {len(result.lateness_s)} ticks"
        f" ({result.realtime})",
        markup=False,
    )
    console.print(f"\nrun folder {folder.path}", style="bold", markup=False)
    for path in (*recordings, *sorted(p for p in folder.path.iterdir() if p.is_file())):
        console.print(f"  {path.relative_to(folder.path)}", markup=False, highlight=False)
