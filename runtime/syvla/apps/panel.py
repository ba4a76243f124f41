"""The live panel: one screen that says who commands, what is wanted and why, how old it is, and why arms hold."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syvla.clock import to_s
from syvla.config import IntentPolicy
from syvla.message import Message
from syvla.messages import (
    ActionChunk,
    Health,
    Intent,
    JointCommand,
    Mode,
    Reason,
    SafetyState,
    SimTruth,
    Splice,
    Task,
    TeleopCommand,
    Thought,
)
from syvla.protocols import Received

READS = (
    "task",
    "thought",
    "intent",
    "chunk",
    "command",
    "splice",
    "safety",
    "sim/truth",
    "health/robot",
    "recording",
    "teleop",
)
_MODE_STYLE = {
    Mode.DISABLED: "white on grey37",
    Mode.ENABLED: "black on green3",
    Mode.OVERRIDE: "black on deep_sky_blue1",
    Mode.HOLD: "black on yellow3",
    Mode.SOFT_STOP: "black on orange1",
    Mode.FAULT: "white on red3",
}
HOLDING = (Mode.HOLD, Mode.SOFT_STOP, Mode.FAULT)
THOUGHT_LINES = 4
SILENT_S = 1.0  # the safety state comes 20 times a second


def _latest(latest: Mapping[str, Received], topic: str, kind: type[Message]) -> Message | None:
    received = latest.get(topic)
    return received.message if received is not None and isinstance(received.message, kind) else None


def render(
    latest: Mapping[str, Received],
    now_ns: int,
    title: str,
    policy: IntentPolicy,
    lateness_s: tuple[float, float] | None,
    notices: Sequence[str],
) -> RenderableType:
    """The panel of this instant; ``lateness_s`` is the run's (p50, p99), ``notices`` are the newest events."""
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(style="bold cyan", no_wrap=True, width=16)
    rows.add_column(ratio=1)
    safety = _latest(latest, "safety", SafetyState)
    command = _latest(latest, "command", JointCommand)
    task = _latest(latest, "task", Task)
    thought = _latest(latest, "thought", Thought)
    truth = _latest(latest, "sim/truth", SimTruth)
    rows.add_row("mode", _mode(safety, now_ns))
    teleop = _latest(latest, "teleop", TeleopCommand)
    if isinstance(teleop, TeleopCommand):
        rows.add_row("joystick", _joystick(teleop, safety, now_ns))
    rows.add_row("instruction", Text(task.instruction or "(none)" if isinstance(task, Task) else "-", style="bold"))
    rows.add_row("chain of thought", _thought(thought))
    rows.add_row("intent age", _age(_latest(latest, "intent", Intent), command, now_ns, policy))
    rows.add_row("chunk latency", _chunk(_latest(latest, "splice", Splice), _latest(latest, "chunk", ActionChunk)))
    rows.add_row("200 Hz lateness", _lateness(_latest(latest, "health/robot", Health), lateness_s))
    rows.add_row("gate", _gate(safety))
    if isinstance(truth, SimTruth):
        rows.add_row("progress", ProgressBar(total=1.0, completed=truth.progress, width=40))
    body: list[RenderableType] = [rows]
    if isinstance(safety, SafetyState):
        body += [_reason(reason, safety.mode in HOLDING) for reason in safety.reasons]
    body += [Text(notice, style="yellow") for notice in notices[-3:]]
    return Panel(Group(*body), title=title, border_style="cyan")


def _reason(reason: Reason, holding: bool) -> Text:
    if holding:
        return Text(f"HELD {reason.code}: {reason.detail} -> {reason.next_step}", style="bold red")
    return Text(f"{reason.code}: {reason.detail}", style="yellow")


def _mode(safety: Message | None, now_ns: int) -> Text:
    if not isinstance(safety, SafetyState):
        return Text("waiting for the robot stage", style="dim")
    silent_s = to_s(now_ns - safety.stamp_ns)
    if silent_s > SILENT_S:
        return Text(f" no word from the robot stage for {silent_s:.1f} s ", style="white on red3")
    text = Text(f" {safety.mode.value.upper()} ", style=_MODE_STYLE[safety.mode])
    return text.append(f"  {safety.source.value} commands", style="default on default")


def _joystick(teleop: TeleopCommand, safety: Message | None, now_ns: int) -> Text:
    """What the person at the joystick does, and what to press next."""
    if teleop.mode_request == "lost" or to_s(now_ns - teleop.sampled_ns) > SILENT_S:
        return Text("not there", style="yellow")
    mode = safety.mode if isinstance(safety, SafetyState) else None
    if mode is Mode.OVERRIDE:
        who = "moves the arms" if teleop.deadman else "the arms stand: hold LB to move them, START gives back"
    else:
        who = "BACK + START clears the hold" if mode in HOLDING else "hold LB to take over"
    return Text(who).append(f"   {teleop.setting}", style="dim")


def _thought(thought: Message | None) -> Text:
    if not isinstance(thought, Thought):
        return Text("-" + "\n" * (THOUGHT_LINES - 1))
    cursor = "" if thought.complete else " ▌"
    return Text(thought.text + cursor, style="italic" if thought.complete else "italic bright_white")


def _age(intent: Message | None, command: Message | None, now_ns: int, policy: IntentPolicy) -> Text:
    if not isinstance(intent, Intent):
        return Text("-")
    age_s = to_s(now_ns - intent.observation_ns)
    style = "green" if age_s < policy.warn_age_s else "yellow" if age_s < policy.time_to_live_s else "red"
    text = Text(f"{age_s * 1e3:5.0f} ms", style=style)
    text.append(f" of {policy.time_to_live_s * 1e3:.0f} ms (then: {policy.stale_policy})", style="dim")
    if isinstance(command, JointCommand) and command.intent_age_s >= 0:
        text.append(f"   at the joints {command.intent_age_s * 1e3:5.0f} ms, intent {command.provenance.intent_id}")
    return text


def _chunk(splice: Message | None, chunk: Message | None) -> Text:
    if not isinstance(splice, Splice):
        return Text("-")
    latency_s = to_s(splice.spliced_ns - splice.observation_ns)
    text = Text(f"{latency_s * 1e3:5.0f} ms   inference delay {splice.inference_delay_steps} steps")
    text.append(f"   seam {splice.jump_rad * 1e3:.1f} mrad   chunk {splice.chunk_id}", style="dim")
    if isinstance(chunk, ActionChunk) and chunk.chunk_id > splice.chunk_id + 1:
        text.append(f"   {chunk.chunk_id - splice.chunk_id} not spliced", style="yellow")
    return text


def _lateness(health: Message | None, run_s: tuple[float, float] | None) -> Text:
    if not isinstance(health, Health):
        return Text("-")
    text = Text(f"now p99 {health.lateness_p99_s * 1e6:5.0f} us")
    if run_s is not None:
        text.append(f"   run p50 {run_s[0] * 1e6:.0f} us  p99 {run_s[1] * 1e6:.0f} us")
    return text.append(f"   {health.realtime}", style="dim")


def _gate(safety: Message | None) -> Text:
    if not isinstance(safety, SafetyState):
        return Text("-")
    limited = [f"J{j + 1}" for j in range(14) if safety.limited_joints >> j & 1]
    text = Text("clear" if not limited else "limiting " + " ".join(limited), style="green" if not limited else "yellow")
    text.append(f"   clamped {safety.clamped_count}  refused {safety.refused_count}")
    return text.append(f"   arms {safety.arm_distance_m * 100:.0f} cm apart", style="dim")
