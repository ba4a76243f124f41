"""What in an episode a person should look at first: holds, standstills and their causes, stale intents, late ticks."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from syvla import messages as m
from syvla.clock import NS_PER_S, to_s
from syvla.message import Float64
from syvla.recording.mcap_read import Recorded
from syvla.report.episode import SILENT_NS, STOPPED_MODES, Commands, Episode
from syvla.report.origins import Int64
from syvla.report.plot import JUMP_RAD
from syvla.report.spans import Stretch, stretches
from syvla.topics import OVERTAKEN, TOPICS

Level = Literal["bad", "warn", "note"]
STILL_RAD_S, STILL_M_S = 0.02, 0.002  # arms that are commanded less than this stand
STILL_NS = 400_000_000  # and hesitate when it is for so long
SPEED_NS = 50_000_000  # over which a speed is taken: chunks' rows are further apart than ticks
JOIN_NS = 200_000_000
MISSED_PERIODS = 3
FRAME_GAP = 3  # periods of a camera
JOINT_NAMES = (*(f"{arm} joint {j}" for arm in m.ARMS for j in range(1, 7)), *(f"{arm} gripper" for arm in m.ARMS))


class Finding(NamedTuple):
    """One thing to look at, and when; ``kind`` is the lane that shows it."""

    start_ns: int
    end_ns: int
    level: Level
    kind: str
    title: str
    detail: str


def findings(episode: Episode, heard: Sequence[Recorded]) -> list[Finding]:
    """In the order of time. ``heard`` are the episode's events: operators, processes, cameras."""
    found = [
        *_holds(episode),
        *_standstills(episode),
        *_stale(episode),
        *_starved(episode),
        *_seams(episode),
        *_limited(episode),
        *_warned(episode),
        *_refused(episode),
        *_gaps(episode),
        *_processes(heard),
        *_cameras(heard),
    ]
    return sorted(found, key=lambda each: (each.start_ns, each.end_ns))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _holds(episode: Episode) -> Iterator[Finding]:
    for span in episode.modes:
        if span.mode in STOPPED_MODES:
            causes = "; ".join(f"{r.code}: {r.detail}. Next: {r.next_step}" for r in span.reasons)
            title = f"{span.mode.value.upper().replace('_', ' ')}: {span.cause or 'no cause is recorded'}"
            yield Finding(span.start_ns, span.end_ns, "bad", "mode", title, causes)
    for taken in episode.interventions:
        title = f"a person had the arms (override {taken.override_id})"
        yield Finding(taken.start_ns, taken.end_ns, "note", "mode", title, "")


def speed(commands: Commands) -> tuple[Float64, Float64]:
    """Greatest speed of a joint [rad/s] and of a gripper [m/s] at each command, over the last ``SPEED_NS``."""
    at_ns = commands.at_ns
    if not len(at_ns):
        return np.zeros(0), np.zeros(0)
    before = np.minimum(np.searchsorted(at_ns, at_ns - SPEED_NS), np.maximum(np.arange(len(at_ns)) - 1, 0))
    took_s = np.maximum((at_ns - at_ns[before]) / NS_PER_S, 1e-3)
    joints = np.abs(commands.position_rad - commands.position_rad[before]).max(axis=1, initial=0.0) / took_s
    grippers = np.abs(commands.gripper_m - commands.gripper_m[before]).max(axis=1, initial=0.0) / took_s
    return joints, grippers


def _standstills(episode: Episode) -> Iterator[Finding]:
    """Where the policy had the arms and they stood, with what was so meanwhile."""
    commands = episode.commands
    joints, grippers = speed(commands)
    past_end, thought_rows = _past_end(episode), episode.thought_rows()
    still = (joints < STILL_RAD_S) & (grippers < STILL_M_S) & (commands.source == m.Source.POLICY.value)
    for each in stretches(commands.at_ns, still, 2 * SPEED_NS, STILL_NS):
        title = f"the arms stood for {to_s(each.end_ns - each.start_ns):.1f} s while the policy commanded"
        yield Finding(each.start_ns, each.end_ns, "warn", "speed", title, _why(episode, each, past_end, thought_rows))


def _why(episode: Episode, still: Stretch, past_end: npt.NDArray[np.bool_], thought_rows: Int64) -> str:
    """What the recording says of a standstill, the likeliest cause first."""
    commands, words = episode.commands, []
    past = past_end[still.rows].mean()
    if past > 0.05:
        words.append(f"{past:.0%} of its commands repeat the last row of a chunk: no newer one had come")
    ages = commands.intent_age_s[still.rows]
    live_s = episode.intent_policy.time_to_live_s
    if (ages > live_s).any():
        words.append(f"the intent was up to {ages.max():.2f} s old (time to live {live_s:g} s)")
    if (commands.limited[still.rows] != 0).any():
        words.append(f"the gate limited {_joints(commands.limited[still.rows])}")
    chunks = np.unique(commands.chunk_id[still.rows])
    if not words:
        words.append(f"{_many(len(chunks), 'chunk')} executed meanwhile wanted no motion")
    thoughts = [episode.thinking[row].text for row in np.unique(thought_rows[still.rows]) if row >= 0]
    thought = next((" ".join(text.split()) for text in reversed(thoughts) if text), "")
    if thought:
        words.append(f"thought: {thought}")
    return "; ".join(words)


def _past_end(episode: Episode) -> npt.NDArray[np.bool_]:
    """Which commands (N,) are of a chunk's last row: there is nothing newer to execute."""
    commands = episode.commands
    last = np.array([*(chunk.rows - 1 for chunk in episode.chunks), -2], np.int64)  # the -2 is that of no chunk
    ends = last[episode.chunk_rows()]
    at_end: npt.NDArray[np.bool_] = (commands.chunk_row == ends) & (commands.source == m.Source.POLICY.value)
    return at_end


def _stale(episode: Episode) -> Iterator[Finding]:
    commands, policy = episode.commands, episode.intent_policy
    by_policy = commands.source == m.Source.POLICY.value
    for each in stretches(commands.at_ns, by_policy & (commands.intent_age_s > policy.time_to_live_s), JOIN_NS):
        oldest = float(commands.intent_age_s[each.rows].max())
        title = f"intent up to {oldest:.2f} s old; its time to live is {policy.time_to_live_s:g} s"
        detail = f"what is done then: {policy.stale_policy}. {_planner(episode, each)}"
        yield Finding(each.start_ns, each.end_ns, "bad", "age", title, detail)


def _planner(episode: Episode, each: Stretch) -> str:
    """What the planner was at in a stretch."""
    busy = [t for t in episode.thinking if t.observation_ns <= each.end_ns and t.arrived_ns >= each.start_ns]
    if not busy:
        return "The planner was at nothing."
    longest = max(busy, key=lambda t: t.arrived_ns - t.observation_ns)
    took_s = to_s(longest.arrived_ns - longest.observation_ns)
    ended = "took" if longest.arrived else "had not come after" if longest.cut_off else "never came, within"
    return f"The thought of intent {longest.intent_id} {ended} {took_s:.2f} s."


def _starved(episode: Episode) -> Iterator[Finding]:
    commands = episode.commands
    for each in stretches(commands.at_ns, _past_end(episode), JOIN_NS, 100_000_000):
        title = f"no newer chunk for {to_s(each.end_ns - each.start_ns):.2f} s: chunk {commands.chunk_id[each.first]}"
        yield Finding(each.start_ns, each.end_ns, "bad", "chunk", title, "its last row was commanded all that time")


def _seams(episode: Episode) -> Iterator[Finding]:
    for splice in episode.splices:
        if splice.jump_rad > JUMP_RAD and splice.replaced_chunk_id >= 0:
            title = f"chunk {splice.chunk_id} was {splice.jump_rad:.3f} rad away where it took over"
            detail = f"it replaced chunk {splice.replaced_chunk_id}; the difference is blended in"
            yield Finding(splice.spliced_ns, splice.spliced_ns, "note", "chunk", title, detail)


def _joints(limited: Int64) -> str:
    bits = int(np.bitwise_or.reduce(limited)) if len(limited) else 0
    return ", ".join(name for j, name in enumerate(JOINT_NAMES) if bits >> j & 1)


def _limited(episode: Episode) -> Iterator[Finding]:
    commands = episode.commands
    for each in stretches(commands.at_ns, commands.limited != 0, JOIN_NS):
        count = int((commands.limited[each.rows] != 0).sum())
        title = f"the gate limited {_joints(commands.limited[each.rows])}"
        yield Finding(each.start_ns, each.end_ns, "warn", "gate", title, _many(count, "command"))


def _warned(episode: Episode) -> Iterator[Finding]:
    """What the gate warned of while it let the arms move."""
    states = episode.safety
    at_ns = np.array([state.stamp_ns for state in states], np.int64)
    moving = [{r.code: r for r in state.reasons} if state.mode not in STOPPED_MODES else {} for state in states]
    for code in sorted({code for reasons in moving for code in reasons}):
        for each in stretches(at_ns, np.array([code in reasons for reasons in moving], np.bool_), JOIN_NS):
            reason = moving[each.first][code]
            detail = f"{reason.detail}. Next: {reason.next_step}"
            yield Finding(each.start_ns, each.end_ns, "warn", "mode", code, detail)


def _refused(episode: Episode) -> Iterator[Finding]:
    states = episode.safety
    at_ns = np.array([state.stamp_ns for state in states], np.int64)
    more = np.diff(np.array([state.refused_count for state in states], np.int64), prepend=0)
    more[:1] = 0
    for each in stretches(at_ns, more > 0, JOIN_NS):
        count = int(more[each.rows].sum())
        reasons = {r.code: r.detail for state in states[each.rows] for r in state.reasons}
        detail = "; ".join(f"{code}: {said}" for code, said in reasons.items())
        title = f"the robot refused {count}: void, too old or not safe"
        yield Finding(each.start_ns, each.end_ns, "warn", "gate", title, detail)


def _gaps(episode: Episode) -> Iterator[Finding]:
    """Ticks that did not come, frames that did not, messages that were lost on their way."""
    at_ns = episode.commands.at_ns
    period_ns = float(np.median(np.diff(at_ns))) if len(at_ns) > 1 else 0.0
    disabled_ns = [state.stamp_ns for state in episode.safety if state.mode is m.Mode.DISABLED]
    for row in np.flatnonzero(np.diff(at_ns) > MISSED_PERIODS * period_ns).tolist():
        start, end = at_ns[row : row + 2].tolist()
        told = bisect_left(disabled_ns, start)
        if told < len(disabled_ns) and disabled_ns[told] < end:  # arms without torque are commanded nothing
            end = disabled_ns[told]
            if end - start <= SILENT_NS:
                continue
        due = f"one is due every {period_ns / 1e6:g} ms"
        yield Finding(start, end, "bad", "loop", f"no command for {(end - start) / 1e6:.0f} ms", due)
    for topic, stamps in episode.stamps.items():
        gaps = np.diff(stamps.sent_ns)
        if topic.startswith("camera/") and len(gaps):
            usual = float(np.median(gaps))
            for row in np.flatnonzero(gaps > FRAME_GAP * usual).tolist():
                title = f"{topic.removeprefix('camera/')}: no picture for {gaps[row] / 1e6:.0f} ms"
                start, end = stamps.sent_ns[row : row + 2].tolist()
                yield Finding(start, end, "warn", "cameras", title, f"one comes every {usual / 1e6:.0f} ms")
        anew = np.diff(stamps.epoch) != 0 if TOPICS[topic].of_one_process else np.zeros(0, np.bool_)
        for row in np.flatnonzero(anew).tolist():
            at = int(stamps.sent_ns[row + 1])
            yield Finding(at, at, "warn", "events", f"{topic}: its sender was started anew", "")
        if topic in OVERTAKEN and episode.config is not None and episode.config.remote_planner:
            continue
        lost = np.where(np.diff(stamps.epoch) == 0, np.diff(stamps.sequence) - 1, 0)
        for row in np.flatnonzero(lost > 0).tolist():
            start, end = stamps.sent_ns[row : row + 2].tolist()
            title = f"{topic}: {_many(lost[row], 'message')} not in the recording"
            yield Finding(start, end, "note", "events", title, "by the sender's numbers")


def _processes(heard: Sequence[Recorded]) -> Iterator[Finding]:
    """What processes said of themselves: messages refused or dropped, ticks missed."""
    before: dict[tuple[str, int], m.Health] = {}
    for recorded in heard:
        now = recorded.message
        if not isinstance(now, m.Health):
            continue
        last = before.get((now.process, now.pid))
        before[now.process, now.pid] = now
        if last is None:
            continue
        counts = (
            ("missed", now.missed_ticks - last.missed_ticks, "tick"),
            ("refused", now.refused - last.refused, "message"),
            ("dropped", now.dropped - last.dropped, "message"),
        )
        for did, count, what in counts:
            if count > 0:
                detail = now.last_refusal if did == "refused" else ""
                kind = "loop" if did == "missed" else "events"
                title = f"{now.process} {did} {_many(count, what)}"
                yield Finding(last.stamp_ns, now.stamp_ns, "warn", kind, title, detail)


def _cameras(heard: Sequence[Recorded]) -> Iterator[Finding]:
    known: dict[str, tuple[int, str]] = {}
    for recorded in heard:
        state = recorded.message
        if not isinstance(state, m.CamerasState):
            continue
        faults = {fault.camera: fault.what for fault in state.faults}
        for camera, (since_ns, what) in list(known.items()):
            if faults.get(camera) != what:  # type: ignore[call-overload]  # a plain name
                yield Finding(since_ns, state.stamp_ns, "bad", "cameras", f"{camera} was {what}", "")
                del known[camera]
        for name, what in faults.items():
            known.setdefault(name, (state.stamp_ns, what))
    for camera, (since_ns, what) in known.items():
        yield Finding(since_ns, since_ns, "bad", "cameras", f"{camera} was {what} to the end", "")
