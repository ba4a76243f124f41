"""The timeline of one episode: thoughts, intents, chunks, commands and holds, aligned over time, in one picture."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from syvla import messages as m
from syvla.report.episode import STOPPED_MODES, Episode, load
from syvla.report.summary import summarise_episode

INK, MUTED, RULE, PAPER = "#1c2733", "#6b7785", "#dfe4ea", "#ffffff"
THINKING, INTENT, EXPIRED = "#f2c14e", "#2a6f97", "#c9d6df"
INFERENCE, EXECUTED, PENDING, SPLICE, JUMP = "#c3aee0", "#5f4b8b", "#ddd3ee", "#5f4b8b", "#d1495b"
HOLD, PERSON = "#d1495b", "#5b8fd6"
MODES = {
    m.Mode.DISABLED: "#c3cad2", m.Mode.ENABLED: "#7fb685", m.Mode.OVERRIDE: PERSON,
    m.Mode.HOLD: HOLD, m.Mode.SOFT_STOP: "#b23a48", m.Mode.FAULT: "#6d1a2d",
}  # fmt: skip
SOURCES = {
    m.Source.NONE: "#c3cad2", m.Source.POLICY: "#2a6f97", m.Source.TELEOP: PERSON, m.Source.HOLD: "#d9a03f",
    m.Source.UNKNOWN: "#8a94a0",
}  # fmt: skip
JOINTS = ("#0b6e99", "#e07a1f", "#3c8d40", "#c23b4b", "#7656a8", "#8a6a4f")
ARM_COLOURS = {"left": "#0b6e99", "right": "#e07a1f"}
INTENT_LANES, CHUNK_LANES = 3, 6
JUMP_RAD = 0.02  # a splice with a larger difference of set-points is drawn in another colour
ROWS = (("mode", 0.5), ("thought", 0.95), ("intent", 1.25), ("chunk", 1.35), ("age", 1.1),
        ("left", 2.2), ("right", 2.2), ("gripper", 0.95))  # fmt: skip
DPI = 110
THOUGHT_LINES = 5
INCHES_PER_S, LEAST_WIDTH, MOST_WIDTH = 1.1, 16.0, 60.0
LEFT_IN, RIGHT_IN, TOP_IN, BOTTOM_IN = 1.25, 1.55, 1.15, 0.55
CHARACTER_IN = 0.066  # mean width of a letter at 8 points


def timeline_plot(path: Path, png: Path) -> None:
    """Draw the recording at ``path`` into ``png``; RecordingError if it is none."""
    draw_to(load(path), png)


def draw_to(episode: Episode, png: Path) -> None:
    """As :func:`timeline_plot`, of an episode that is loaded already."""
    draw(episode).savefig(png, dpi=DPI, facecolor=PAPER)


def draw(episode: Episode) -> Figure:
    """The figure of an episode that is loaded already."""
    width = float(np.clip(episode.duration_s * INCHES_PER_S + LEFT_IN + RIGHT_IN, LEAST_WIDTH, MOST_WIDTH))
    height = sum(share for _, share in ROWS) + TOP_IN + BOTTOM_IN
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(ROWS), 1, height_ratios=[share for _, share in ROWS], hspace=0.09,
        left=LEFT_IN / width, right=1 - RIGHT_IN / width, top=1 - TOP_IN / height, bottom=BOTTOM_IN / height,
    )  # fmt: skip
    axes: dict[str, Axes] = {}
    for i, (name, _) in enumerate(ROWS):
        axes[name] = figure.add_subplot(grid[i], sharex=axes.get("mode"))
        _bare(axes[name], last=i == len(ROWS) - 1)
    axes["mode"].set_xlim(0.0, max(episode.duration_s, 1e-3))
    _title(figure, episode, width, height)
    _mode(axes["mode"], episode, width - LEFT_IN - RIGHT_IN)
    _thought(axes["thought"], episode, width - LEFT_IN - RIGHT_IN)
    _intent(axes["intent"], episode, width - LEFT_IN - RIGHT_IN)
    _chunk(axes["chunk"], episode)
    _age(axes["age"], episode)
    for k, arm in enumerate(m.ARMS):
        _arm(axes[arm], episode, k, arm)
    _gripper(axes["gripper"], episode)
    below = [axes[name] for name, _ in ROWS[1:]]
    _shade(below, episode, HOLD, [(s.start_ns, s.end_ns) for s in episode.modes if s.mode in STOPPED_MODES])
    _shade(below, episode, PERSON, [(s.start_ns, s.end_ns) for s in episode.interventions])
    axes["gripper"].set_xlabel("seconds since the start of the episode", color=MUTED, fontsize=9)
    return figure


# ---------------------------------------------------------------- rows


def _title(figure: Figure, episode: Episode, width: float, height: float) -> None:
    x = LEFT_IN / width
    run = episode.recording.run
    summary = summarise_episode(episode)
    ended = summary["outcome"] + (" (cut off)" if episode.recording.ends_early else "")
    figure.text(x, 1 - 0.36 / height, f"“{episode.instruction}”", fontsize=15, fontweight="bold", color=INK)
    facts = [
        run.get("episode", episode.path.stem), ended, f"{episode.duration_s:.1f} s",
        f"rig {run.get('rig', '?')}", f"policy {run.get('policy', '?')}",
        _waited(summary["waiting_for_the_planner"]["commands_that_waited"]),
        _intervened(summary["interventions"]),
    ]  # fmt: skip
    figures = [
        _figure("planner", summary["intent"]["thinking_s"]),
        _figure("intent age at the command", summary["intent"]["age_at_command_s"]),
        _figure("chunk, observation to splice", summary["chunk"]["observation_to_splice_s"]),
        _figure("200 Hz lateness", summary["control"]["lateness_s"]),
    ]
    for line, offset in ((facts, 0.64), (figures, 0.86)):
        text = "   ·   ".join(fact for fact in line if fact)
        figure.text(x, 1 - offset / height, text, fontsize=9, color=MUTED)


def _figure(name: str, values: dict[str, Any]) -> str:
    if not values["n"] or values["p99"] is None:
        return ""
    p50, p99 = 1e3 * values["p50"], 1e3 * values["p99"]
    digits = 0 if p50 >= 100 else 1 if p50 >= 1 else 3
    return f"{name} {p50:.{digits}f} / {p99:.{digits}f} ms (p50 / p99)"


def _waited(count: int | None) -> str:
    if count is None:
        return ""
    return "no command waited for the planner" if count == 0 else f"commands waited for {count} thoughts"


def _intervened(summary: dict[str, Any]) -> str:
    return f"a person had the arms {summary['count']} times, {summary['total_s']:.1f} s" if summary["count"] else ""


def _mode(ax: Axes, episode: Episode, inches: float) -> None:
    """The mode machine, and under it who commands; a stop says its cause, and what was measured if there is room."""
    _label(ax, "mode,\nsource")
    ax.set_ylim(0, 1)
    per_s = inches / max(episode.duration_s, 1e-3)
    for span in episode.modes:
        start, end = episode.second(span.start_ns), episode.second(span.end_ns)
        ax.broken_barh([(start, end - start)], (0.26, 0.7), color=MODES[span.mode], linewidth=0)
        words = [span.mode.value.upper()]
        if span.mode in STOPPED_MODES and span.reasons:
            words += [span.cause, span.reasons[0].detail]
        room = int(((end - start) * per_s - 0.1) / (1.15 * CHARACTER_IN))
        while words and len("   ".join(words)) > room:
            words.pop()
        text = "   ".join(words)
        ax.text(start + 0.05 / per_s, 0.59, text, fontsize=8, fontweight="bold", color="white", va="center")
    found = []
    for start, end, source in _sources(episode):
        ax.broken_barh([(start, end - start)], (0.0, 0.18), color=SOURCES[source], linewidth=0)
        found.append(source)
    _legend(ax, [Patch(color=SOURCES[source], label=f"{source.value} commands") for source in dict.fromkeys(found)])


def _sources(episode: Episode) -> list[tuple[float, float, m.Source]]:
    """Stretches of commands from one source."""
    commands = episode.commands
    if not len(commands.at_ns):
        return []
    seconds = episode.seconds(commands.at_ns)
    changes = [0, *(np.flatnonzero(commands.source[1:] != commands.source[:-1]) + 1).tolist()]
    ends = [*(float(seconds[i]) for i in changes[1:]), float(seconds[-1])]
    return [(float(seconds[i]), end, m.Source(str(commands.source[i]))) for i, end in zip(changes, ends, strict=True)]


def _thought(ax: Axes, episode: Episode, inches: float) -> None:
    """The chain of thought where it changes, wrapped into the time it was in force."""
    _label(ax, "chain of\nthought")
    ax.set_ylim(0, 1)
    changes: list[tuple[float, str]] = []
    for span in episode.thinking:
        if span.arrived and span.text and (not changes or span.text != changes[-1][1]):
            changes.append((episode.second(span.arrived_ns), span.text))
    per_s = inches / max(episode.duration_s, 1e-3)
    for i, (start, text) in enumerate(changes):
        end = changes[i + 1][0] if i + 1 < len(changes) else episode.duration_s
        room = (end - start) * per_s - 0.12  # inches
        ax.broken_barh([(start, end - start)], (0.03, 0.94), color="#fdf3d7" if i % 2 else "#fbe9bd", linewidth=0)
        ax.axvline(start, color=THINKING, linewidth=1.4)
        columns = int(room / CHARACTER_IN)
        if columns >= 6:
            lines = textwrap.wrap(" ".join(text.split()), columns)
            if len(lines) > THOUGHT_LINES:  # what comes last is what is to be done next
                lines = lines[-THOUGHT_LINES:]
                lines[0] = f"… {lines[0]}"
            ax.text(start + 0.06 / per_s, 0.92, "\n".join(lines), fontsize=8, color=INK, va="top", clip_on=True)


def _intent(ax: Axes, episode: Episode, inches: float) -> None:
    """Each intent: thinking from observation to arrival, in force until the next, expiring at its time to live."""
    _label(ax, "intent")
    ax.set_ylim(INTENT_LANES, 0)
    live_s = episode.intent_policy.time_to_live_s
    arrivals = [episode.second(span.arrived_ns) for span in episode.thinking if span.arrived]
    known = 0
    boxes: dict[str, list[Any]] = {THINKING: [], INTENT: [], EXPIRED: []}
    per_s = inches / max(episode.duration_s, 1e-3)
    labelled = -1e9
    for i, span in enumerate(episode.thinking):
        lane = i % INTENT_LANES
        observed, at = episode.second(span.observation_ns), episode.second(span.arrived_ns)
        boxes[THINKING].append(_box(observed, at, lane + 0.28, lane + 0.72))
        if not span.arrived:
            continue
        known += 1
        expiry = observed + live_s
        replaced = arrivals[known] if known < len(arrivals) else episode.duration_s
        used_until = max(at, min(replaced, expiry))
        boxes[INTENT].append(_box(at, used_until, lane + 0.18, lane + 0.82))
        if expiry > used_until:
            boxes[EXPIRED].append(_box(used_until, expiry, lane + 0.42, lane + 0.58))
        ax.plot([max(expiry, at)] * 2, [lane + 0.25, lane + 0.75], color=MUTED, linewidth=0.8)
        if (used_until - at) * per_s > 0.2 or (observed - labelled) * per_s > 0.35:
            labelled = observed
            ax.text(
                at + 0.03 / per_s,
                lane + 0.5,
                str(span.intent_id),
                fontsize=6.5,
                color="white",
                va="center",
                clip_on=True,
            )
    for colour, polygons in boxes.items():
        ax.add_collection(PolyCollection(polygons, facecolors=colour, linewidths=0))
    _legend(ax, [
        Patch(color=THINKING, label="observed, thinking"), Patch(color=INTENT, label="newest intent"),
        Patch(color=EXPIRED, label="replaced"), Line2D([], [], color=MUTED, label=f"expiry ({live_s:g} s)"),
    ])  # fmt: skip


def _chunk(ax: Axes, episode: Episode) -> None:
    """Each chunk: inference from observation to arrival, the rows that were commanded, the rest of its horizon."""
    _label(ax, "action\nchunk")
    ax.set_ylim(CHUNK_LANES, -1.1)
    lines: dict[str, list[Any]] = {PENDING: [], INFERENCE: [], EXECUTED: []}
    for i, chunk in enumerate(episode.chunks):
        y = i % CHUNK_LANES + 0.5
        observed, at = episode.second(chunk.observation_ns), episode.second(chunk.arrived_ns)
        period = chunk.period_ns / 1e9
        lines[PENDING].append([(at, y), (observed + chunk.rows * period, y)])
        lines[INFERENCE].append([(observed, y), (at, y)])
        if chunk.executed is not None:
            first, last = chunk.executed
            lines[EXECUTED].append([(max(at, observed + first * period), y), (observed + (last + 1) * period, y)])
    for (colour, segments), thick in zip(lines.items(), (0.9, 3.0, 5.0), strict=True):
        ax.add_collection(LineCollection(segments, colors=colour, linewidths=thick, capstyle="butt"))
    for colour, large in ((SPLICE, False), (JUMP, True)):
        ticks = [episode.second(s.spliced_ns) for s in episode.splices if (s.jump_rad > JUMP_RAD) is large]
        ax.vlines(ticks, -0.95, -0.2, color=colour, linewidth=0.9 + large)
    _legend(ax, [
        Line2D([], [], color=SPLICE, label="splice", marker="|", linestyle=""),
        Line2D([], [], color=JUMP, label=f"jump > {JUMP_RAD:g} rad", marker="|", linestyle=""),
        Line2D([], [], color=INFERENCE, linewidth=3, label="observed, inferring"),
        Line2D([], [], color=EXECUTED, linewidth=5, label="rows executed"),
        Line2D([], [], color=PENDING, linewidth=1, label="rest of the horizon"),
    ])  # fmt: skip


def _age(ax: Axes, episode: Episode) -> None:
    _label(ax, "intent age\n[s]")
    policy = episode.intent_policy
    commands = episode.commands
    age = np.where(commands.intent_age_s >= 0, commands.intent_age_s, np.nan)
    ax.plot(episode.seconds(commands.at_ns), age, color=INTENT, linewidth=1.0)
    highest = np.nanmax(age) if np.isfinite(age).any() else 0.0
    ax.set_ylim(0, 1.1 * max(policy.time_to_live_s, min(float(highest), 2 * policy.time_to_live_s)))
    ax.axhline(policy.time_to_live_s, color=HOLD, linewidth=1.1)
    ax.axhline(policy.warn_age_s, color=THINKING, linewidth=1.1, linestyle=(0, (4, 3)))
    _numbers(ax)
    _legend(ax, [
        Line2D([], [], color=INTENT, label="age at the command"),
        Line2D([], [], color=HOLD, label=f"time to live: {policy.stale_policy}"),
        Line2D([], [], color=THINKING, linestyle=(0, (4, 3)), label="warning"),
    ])  # fmt: skip


def _arm(ax: Axes, episode: Episode, k: int, arm: str) -> None:
    _label(ax, f"{arm} arm\n[rad]")
    commands, measured = episode.commands, episode.measured[arm]
    at, seen = episode.seconds(commands.at_ns), episode.seconds(measured.at_ns)
    for joint, colour in enumerate(JOINTS):
        ax.plot(seen, measured.position_rad[:, joint], color=colour, linewidth=3.2, alpha=0.3, solid_capstyle="butt")
        ax.plot(at, commands.position_rad[:, 6 * k + joint], color=colour, linewidth=0.9)
    ax.margins(y=0.07)
    _numbers(ax)
    lines = [Line2D([], [], color=colour, label=f"joint {j + 1}") for j, colour in enumerate(JOINTS)]
    lines.append(Line2D([], [], color=INK, linewidth=0.9, label="command"))
    lines.append(Line2D([], [], color=INK, linewidth=3.2, alpha=0.3, label="measured"))
    _legend(ax, lines)


def _gripper(ax: Axes, episode: Episode) -> None:
    _label(ax, "grippers\n[mm]")
    at = episode.seconds(episode.commands.at_ns)
    for k, arm in enumerate(m.ARMS):
        measured, colour = episode.measured[arm], ARM_COLOURS[arm]
        ax.plot(episode.seconds(measured.at_ns), 1e3 * measured.gripper_m, color=colour, linewidth=3.2, alpha=0.3)
        ax.plot(at, 1e3 * episode.commands.gripper_m[:, k], color=colour, linewidth=0.9)
    ax.margins(y=0.12)
    _numbers(ax)
    _legend(ax, [Line2D([], [], color=colour, label=arm) for arm, colour in ARM_COLOURS.items()])


def _shade(rows: Sequence[Axes], episode: Episode, colour: str, spans: Sequence[tuple[int, int]]) -> None:
    for start_ns, end_ns in spans:
        for ax in rows:
            ax.axvspan(
                episode.second(start_ns), episode.second(end_ns), color=colour, alpha=0.08, linewidth=0, zorder=0
            )


# ---------------------------------------------------------------- dress


def _box(left: float, right: float, low: float, high: float) -> list[tuple[float, float]]:
    return [(left, low), (right, low), (right, high), (left, high)]


def _bare(ax: Axes, last: bool) -> None:
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_facecolor("#f8f9fb")
    ax.set_yticks([])
    ax.grid(axis="x", color=RULE, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(axis="x", length=0, labelsize=8, labelcolor=MUTED, labelbottom=last)


def _numbers(ax: Axes) -> None:
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    ax.tick_params(axis="y", length=0, labelsize=7, labelcolor=MUTED, pad=2)
    ax.grid(axis="y", color=RULE, linewidth=0.5)


def _label(ax: Axes, text: str) -> None:
    ax.annotate(
        text, (0, 0.5), (-LEFT_IN * 72 + 14, 0), "axes fraction", "offset points",
        ha="left", va="center", fontsize=9.5, fontweight="bold", color=INK,
    )  # fmt: skip


def _legend(ax: Axes, handles: Sequence[Any]) -> None:
    if handles:
        ax.legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7,
            labelcolor=MUTED, handlelength=1.4, handletextpad=0.6, labelspacing=0.25, borderaxespad=0.6,
        )  # fmt: skip
