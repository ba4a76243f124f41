"""What the page of a recording shows, as JSON: spans and events as they are, long columns as packed arrays.

Times are seconds since the first instant that is shown. Nothing is decimated: the page draws least and most of what
falls on a pixel.
"""

import base64
import math
import os
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from syvla import messages as m
from syvla.clock import NS_PER_S, to_ns
from syvla.errors import ConfigError, RecordingError
from syvla.message import Float64
from syvla.recording.mcap_read import CONFIG_ATTACHMENT, Recorded, Recording
from syvla.report.episode import Episode, assembled
from syvla.report.findings import JOINT_NAMES, findings, speed
from syvla.report.plot import JUMP_RAD
from syvla.report.summary import summarise_episode, tracking_error_rad
from syvla.report.video import Film
from syvla.report.view_modes import mode_rows
from syvla.topics import TOPICS

UNSHOWN = ("steps/", "memory/", "sim/state", "teleop")  # what a machine reads
ALWAYS = ("teleop/operator",)
HEARD = frozenset(
    row.name
    for row in TOPICS.values()
    if row.type in (m.Health, m.CamerasState, m.OperatorCommand, m.EpisodeControl, m.PlaybackControl, m.Intent)
)
MOST_MESSAGES = 3_000_000  # in memory; ten minutes of a robot are 700 000


class Shown(NamedTuple):
    """The part of a recording that is shown, from ``at_s`` on."""

    episode: Episode
    heard: list[Recorded]  # operators, processes, cameras, intents
    at_s: float
    goes_on: bool  # whether the recording has more after it

    def second(self, at_ns: int) -> float:
        """An instant as seconds since the recording's start, not the part's."""
        return self.at_s + self.episode.second(at_ns)


def read(recording: Recording, at_s: float, for_s: float) -> Shown:
    """The ``for_s`` seconds from ``at_s`` on, without images; what comes after is not read.

    Raises:
        ConfigError: The numbers make no sense.
        RecordingError: There is nothing in that time, or far more than a robot says.
    """
    for name, value in (("--at", at_s), ("--seconds", for_s)):
        if not (math.isfinite(value) and value >= 0.0) or (name == "--seconds" and value == 0.0):
            raise ConfigError(f"{name} must be a number of seconds, not {value:g}")
    first = next(recording.records(), None)
    if first is None:
        raise RecordingError(f"{recording.path}: holds no message; there is nothing to show")
    since_ns = first.log_time_ns + to_ns(at_s)
    until_ns = since_ns + to_ns(for_s)
    topics = {name for name in TOPICS if name in ALWAYS or not name.startswith(UNSHOWN)}
    heard: list[Recorded] = []
    beyond, count = False, 0

    def inside(recorded: Recorded) -> bool:
        nonlocal beyond
        beyond = recorded.log_time_ns > until_ns
        return not beyond

    def shown() -> Iterator[Recorded]:
        nonlocal count
        if at_s > 0:  # what was asked for before, and still is
            earlier = list(recording.messages({"task"}, until_ns=since_ns - 1))
            yield from (r._replace(log_time_ns=since_ns) for r in earlier[-1:])
        for recorded in takewhile(inside, recording.messages(topics, since_ns)):
            count += 1
            if count > MOST_MESSAGES:
                raise RecordingError(f"{recording.path}: more than {MOST_MESSAGES} messages in {for_s:g} s")
            if recorded.topic in HEARD:
                heard.append(recorded)
            yield recorded

    episode = assembled(recording, shown())
    episode.start_ns = since_ns  # also where the first message comes later
    if not any(topic != "task" for topic in episode.stamps):
        raise RecordingError(f"{recording.path}: nothing was recorded in the {for_s:g} s from --at {at_s:g} on")
    if beyond and episode.thinking and not episode.thinking[-1].arrived:  # an earlier one was given up for this one
        episode.thinking[-1] = episode.thinking[-1]._replace(cut_off=True)
    return Shown(episode, heard, at_s, beyond)


def wall_offset_ns(recording: Recording) -> int | None:
    """The wall clock minus the monotonic one when the run began; None under a virtual clock, or if it is not told."""
    try:
        run = msgspec.json.decode(recording.attachments[CONFIG_ATTACHMENT], type=_Clock)
    except (KeyError, msgspec.MsgspecError):
        return None
    return run.wall_offset_ns if 0 < run.wall_offset_ns < 2**62 else None


class _Clock(msgspec.Struct):
    """Of a run's configuration, of whatever version."""

    wall_offset_ns: int = 0


def page_data(shown: Shown, film: Film | None, notes: Sequence[str]) -> dict[str, Any]:
    """Everything, fit for JSON; numbers without measure become what they overflow to, in silence."""
    with np.errstate(all="ignore"):
        return _page_data(shown, film, notes)


def _page_data(shown: Shown, film: Film | None, notes: Sequence[str]) -> dict[str, Any]:
    episode = shown.episode
    recording, policy = episode.recording, episode.intent_policy
    offset_ns = wall_offset_ns(recording)
    found = findings(episode, shown.heard)
    return {
        "title": printable(episode.path),
        "instruction": episode.instruction,
        "facts": _facts(episode),
        "notes": [*notes_of(shown), *notes],
        "at_s": shown.at_s,
        "duration_s": _number(episode.duration_s),
        "wall_ms": None if offset_ns is None else (episode.start_ns + offset_ns) / 1e6,
        "limits": {
            "live_s": policy.time_to_live_s,
            "warn_s": policy.warn_age_s,
            "stale_policy": policy.stale_policy,
            "jump_rad": JUMP_RAD,
        },
        "joints": JOINT_NAMES,
        "modes": mode_rows(episode),
        "overrides": [[*_span(episode, s.start_ns, s.end_ns), s.override_id] for s in episode.interventions],
        "tasks": [[episode.second(t.issued_ns), t.instruction] for t in episode.tasks],
        "thoughts": _thoughts(episode, shown.heard),
        "chunks": [
            [
                c.chunk_id, c.intent_id, *_span(episode, c.observation_ns, c.arrived_ns), c.period_ns / NS_PER_S,
                c.rows, *(c.executed or (-1, -1)),
            ]
            for c in episode.chunks
        ],
        "splices": [
            [
                episode.second(s.spliced_ns), s.splice_id, s.chunk_id, s.intent_id, s.replaced_chunk_id,
                episode.second(s.observation_ns), s.inference_delay_steps, _number(s.jump_rad),
            ]
            for s in episode.splices
        ],
        "events": _events(episode, shown.heard),
        "findings": [[*_span(episode, f.start_ns, f.end_ns), *f[2:]] for f in found],
        "film": None if film is None else [episode.second(film.start_ns), film.rate_hz, film.frames],
        "sources": [source.value for source in m.Source],
        "columns": {name: packed(column) for name, column in _columns(episode).items()},
    }  # fmt: skip


def printable(path: Path) -> str:
    """A file's name, which may be any bytes."""
    return os.fsencode(path.name).decode(errors="backslashreplace")


def packed(column: npt.NDArray[Any]) -> dict[str, str]:
    """A column as base64 of little-endian f4, f8, i4 or u1; (N, S) becomes S series one after the other."""
    if column.dtype.kind == "i":
        fits = not len(column) or (column.min() >= -(2**31) and column.max() < 2**31)
        column = column.astype("<i4" if fits else "<f8")
    kind = f"{column.dtype.kind}{column.dtype.itemsize}"
    data = np.ascontiguousarray(column.T).astype(column.dtype.newbyteorder("<")).tobytes()
    return {"type": kind, "data": base64.b64encode(data).decode()}


def _columns(episode: Episode) -> dict[str, npt.NDArray[Any]]:
    commands = episode.commands
    sources = [source.value for source in m.Source]
    joints, grippers = speed(commands)
    columns: dict[str, npt.NDArray[Any]] = {
        "command.t": episode.seconds(commands.at_ns),
        "command.position": _small(np.concatenate((commands.position_rad, 1e3 * commands.gripper_m), axis=1)),
        "command.source": np.array([sources.index(str(s)) for s in commands.source], np.uint8),
        "command.chunk": commands.chunk_id,
        "command.row": commands.chunk_row,
        "command.splice": commands.splice_id,
        "command.intent": commands.intent_id,
        "command.thought_at": episode.thought_rows(),  # these three: where in the lists, -1: in none
        "command.chunk_at": episode.chunk_rows(),
        "command.splice_at": episode.splice_rows(),
        "command.override": commands.override_id,
        "command.seen": np.where(commands.observation_ns >= 0, episode.seconds(commands.observation_ns), np.nan),
        "command.age": _small(np.where(commands.intent_age_s >= 0, commands.intent_age_s, np.nan)),
        "command.limited": commands.limited,
        "speed.joint": _small(joints),
        "speed.gripper": _small(1e3 * grippers),
    }
    for k, arm in enumerate(m.ARMS):
        measured = episode.measured[arm]
        columns[f"{arm}.t"] = episode.seconds(measured.at_ns)
        position = np.concatenate((measured.position_rad, 1e3 * measured.gripper_m[:, None]), axis=1)
        columns[f"{arm}.position"] = _small(position)
        columns[f"{arm}.error"] = _small(tracking_error_rad(episode, k, arm))
    columns["lateness.t"], columns["lateness.ms"] = _lateness(episode)
    for topic, stamps in episode.stamps.items():
        if topic.startswith("camera/"):
            columns[topic] = episode.seconds(np.sort(stamps.sent_ns))
    return columns


def _lateness(episode: Episode) -> tuple[Float64, npt.NDArray[np.float32]]:
    """Each lateness [ms], laid evenly over the time since the process last told of itself."""
    instants: list[Float64] = []
    values: list[npt.NDArray[Any]] = []
    before_ns = episode.start_ns
    for health in episode.health:
        late = health.lateness_s
        if late is not None and len(late):
            share = (np.arange(len(late)) + 1) / len(late)
            until_s = episode.second(health.stamp_ns)
            instants.append(until_s - (1 - share) * (until_s - episode.second(before_ns)))
            values.append(1e3 * late)
        before_ns = health.stamp_ns
    if not values:
        return np.zeros(0), np.zeros(0, np.float32)
    return np.maximum.accumulate(np.concatenate(instants)), _small(np.concatenate(values))


def _small(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _span(episode: Episode, start_ns: int, end_ns: int) -> list[float]:
    return [episode.second(start_ns), episode.second(end_ns)]


def _thoughts(episode: Episode, heard: Sequence[Recorded]) -> list[list[Any]]:
    """Intents with their words, and how many of the words there were when; whether one arrived, None: not yet."""
    intents = [r.message for r in heard if isinstance(r.message, m.Intent)]
    models = {(intent.intent_id, intent.observation_ns): intent.model_id for intent in intents}
    growing: dict[tuple[int, int], list[tuple[float, str]]] = {}
    for sent_ns, thought in episode.thoughts:
        key = thought.intent_id, thought.observation_ns
        growing.setdefault(key, []).append((episode.second(sent_ns), thought.text))
    rows: list[list[Any]] = []
    for t in episode.thinking:
        parts = growing.get((t.intent_id, t.observation_ns), [])
        lengths = [[at, _length(text)] for at, text in parts if t.text.startswith(text)]
        span = _span(episode, t.observation_ns, t.arrived_ns)
        arrived = None if t.cut_off else t.arrived
        rows.append([t.intent_id, *span, arrived, t.text, models.get((t.intent_id, t.observation_ns), ""), lengths])
    return rows


def _length(text: str) -> int:
    """As the page counts, in UTF-16."""
    return len(text.encode("utf-16-le")) // 2


def _events(episode: Episode, heard: Sequence[Recorded]) -> list[list[Any]]:
    """What was said at one instant, by whom: (second, topic, words)."""
    events: list[list[Any]] = [
        [episode.second(t.issued_ns), "task", t.instruction or "nothing is wanted"] for t in episode.tasks
    ]
    for recorded in heard:
        said = _words(recorded.message)
        if said:
            events.append([episode.second(recorded.header.sent_ns), recorded.topic, said])
    return sorted(events, key=lambda event: event[0])


def _words(message: object) -> str:
    if isinstance(message, m.OperatorCommand):
        return f"{message.action}: {message.lost}" if message.lost else message.action
    if isinstance(message, m.EpisodeControl):
        return f"{message.action} {message.name}"
    if isinstance(message, m.PlaybackControl):
        return "playback paused" if message.paused else f"playback at {message.speed:g} of its speed"
    return ""


def _facts(episode: Episode) -> list[list[str]]:
    summary = summarise_episode(episode)
    run, control, intent = episode.recording.run, summary["control"], summary["intent"]
    facts = [["outcome", summary["outcome"]], ["shown", f"{episode.duration_s:.2f} s"]]
    facts += [[name, run[name]] for name in ("episode", "rig", "policy", "software") if name in run]
    for name, figures in (
        ("planner", intent["thinking_s"]),
        ("intent age", intent["age_at_command_s"]),
        ("chunk to splice", summary["chunk"]["observation_to_splice_s"]),
        ("lateness", control["lateness_s"]),
    ):
        if figures["n"] and figures["p99"] is not None:
            facts.append([f"{name} p50 / p99", f"{_ms(figures['p50'])} / {_ms(figures['p99'])} ms"])
    gate = summary["gate"]
    if gate["refused"] is not None:
        facts.append(["gate", f"{gate['clamped']} clamped, {gate['refused']} refused"])
    facts.append(["real time", control["realtime"] or "-"])
    return [[name, str(value)[: m.MAX_NAME]] for name, value in facts]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def notes_of(shown: Shown) -> list[str]:
    """What is not to be seen, and why."""
    episode, recording = shown.episode, shown.episode.recording
    notes = []
    if recording.ends_early:
        notes.append(f"The recording was cut short: {recording.ends_early}. What is whole before that is shown.")
    if shown.at_s > 0 or shown.goes_on:
        end_s = math.floor(100 * (shown.at_s + episode.duration_s)) / 100  # nothing lies between two parts
        after = f"; it goes on: --at {end_s:.2f} shows what follows" if shown.goes_on else ""
        notes.append(f"Only seconds {shown.at_s:g} to {end_s:.2f} of the recording are shown{after}.")
    if wall_offset_ns(recording) is None:
        notes.append("It does not say what time of day it was: a virtual clock, or an older recording.")
    absent = [
        name
        for name, there in (
            ("joint commands", len(episode.commands.at_ns)),
            ("what the arms measured", any(len(each.at_ns) for each in episode.measured.values())),
            ("intents", len(episode.thinking)),
            ("action chunks", len(episode.chunks)),
            ("the safety gate's state", len(episode.safety)),
            ("the control loop's lateness", len(episode.health)),
            ("camera images", any(topic.startswith("camera/") for topic in episode.stamps)),
        )
        if not there
    ]
    if absent:
        notes.append(f"Not in it: {', '.join(absent)}.")
    return notes
