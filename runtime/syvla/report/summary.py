"""The timing report of one episode as plain numbers, taken from its recording alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from syvla import messages as m
from syvla.clock import NS_PER_S
from syvla.message import Float64
from syvla.report.episode import STOPPED_MODES, Episode, Stamps, load
from syvla.report.origins import Int64

MISSED_TICKS = 3  # a gap of more periods than this is not jitter any more


def summarise(path: Path) -> dict[str, Any]:
    """The report of the recording at ``path``, fit for JSON. Durations in seconds; RecordingError if it is none."""
    return summarise_episode(load(path))


def summarise_episode(episode: Episode) -> dict[str, Any]:
    """As :func:`summarise`, of an episode that is loaded already."""
    recording = episode.recording
    outcome = recording.outcome.get("outcome", "interrupted")
    success = episode.truth[-1].success if episode.truth else outcome == "success"
    return {
        "recording": episode.path.name,
        "complete": not recording.ends_early,
        "ends_early": recording.ends_early,
        **recording.run,
        "instruction": episode.instruction,
        "outcome": outcome,
        "success": success,
        "progress": round(episode.truth[-1].progress, 4) if episode.truth else None,
        "duration_s": round(episode.duration_s, 6),
        "intent": _intent(episode),
        "chunk": _chunk(episode),
        "control": _control(episode),
        "waiting_for_the_planner": _waiting(episode),
        "holds": _holds(episode),
        "interventions": _interventions(episode),
        "gate": _gate(episode),
        "topics": {topic: _topic(stamps) for topic, stamps in episode.stamps.items()},
    }


def quantiles(values: npt.ArrayLike) -> dict[str, float | int | None]:
    """``n``, p50, p99 and max; None where there is nothing."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return {"n": 0, "p50": None, "p99": None, "max": None}
    p50, p99 = np.quantile(array, (0.5, 0.99))
    return {"n": len(array), "p50": _round(p50), "p99": _round(p99), "max": _round(array.max())}


def _round(value: float) -> float:
    return round(float(value), 7)


def _period_s(episode: Episode) -> float:
    """What the commands' period should be."""
    if episode.config is not None:
        return 1.0 / episode.config.rig.control.rate_hz
    gaps = np.diff(episode.commands.at_ns)
    return float(np.median(gaps)) / NS_PER_S if len(gaps) else 0.005


def _intent(episode: Episode) -> dict[str, Any]:
    ages = episode.commands.intent_age_s
    by_policy = ages[(ages >= 0) & (episode.commands.source == m.Source.POLICY.value)]
    policy = episode.intent_policy
    arrived = [t for t in episode.thinking if t.arrived]
    return {
        "count": len(arrived),
        "thinking_s": quantiles([(t.arrived_ns - t.observation_ns) / NS_PER_S for t in arrived]),
        "age_at_command_s": quantiles(by_policy),
        "time_to_live_s": policy.time_to_live_s,
        "stale_policy": policy.stale_policy,
        "commands_beyond_time_to_live": int((by_policy > policy.time_to_live_s).sum()),
    }


def _chunk(episode: Episode) -> dict[str, Any]:
    splices = episode.splices
    delays = [s.inference_delay_steps for s in splices]
    executed = [c.executed[1] - c.executed[0] + 1 for c in episode.chunks if c.executed is not None]
    return {
        "count": len(episode.chunks),
        "spliced": len(splices),
        "observation_to_arrival_s": quantiles([(c.arrived_ns - c.observation_ns) / NS_PER_S for c in episode.chunks]),
        "observation_to_splice_s": quantiles([(s.spliced_ns - s.observation_ns) / NS_PER_S for s in splices]),
        "published_to_command_s": quantiles(published_to_command_s(episode)),
        "inference_delay_steps": {str(d): delays.count(d) for d in sorted(set(delays))},
        "executed_rows": quantiles(executed),
        "jump_rad": quantiles([s.jump_rad for s in splices]),
    }


def published_to_command_s(episode: Episode) -> list[float]:
    """For each chunk that was spliced, from its publication until the first command of its timeline had been sent."""
    published_ns = {chunk.chunk_id: chunk.arrived_ns for chunk in episode.chunks}
    sent_ns = episode.stamps["command"].sent_ns if "command" in episode.stamps else np.zeros(0, np.int64)
    spliced = [splice for splice in episode.splices if splice.chunk_id in published_ns]
    first = np.searchsorted(episode.commands.at_ns, [splice.spliced_ns for splice in spliced])
    return [
        (int(sent_ns[row]) - published_ns[splice.chunk_id]) / NS_PER_S
        for splice, row in zip(spliced, first.tolist(), strict=True)
        if row < len(sent_ns)
    ]


def _control(episode: Episode) -> dict[str, Any]:
    commands = episode.commands
    period_s = _period_s(episode)
    gaps_s = np.diff(commands.at_ns) / NS_PER_S
    every = [h.lateness_s for h in episode.health if h.lateness_s is not None and len(h.lateness_s)]
    if every:
        lateness = quantiles(np.concatenate(every))
    else:  # only each half second's own quantiles are known: the worst of them bounds the run's
        p50 = [h.lateness_p50_s for h in episode.health]
        lateness = quantiles(p50) | {
            "p99": max((_round(h.lateness_p99_s) for h in episode.health), default=None),
            "max": max((_round(h.lateness_max_s) for h in episode.health), default=None),
        }
    sources, counts = np.unique(commands.source, return_counts=True)
    return {
        "commands": len(commands.at_ns),
        "by_source": {str(source): int(count) for source, count in zip(sources, counts, strict=True)},
        "nominal_period_s": _round(period_s),
        "period_s": quantiles(gaps_s),
        "period_jitter_s": quantiles(np.abs(gaps_s - period_s)),
        "lateness_s": lateness,
        "realtime": episode.health[-1].realtime if episode.health else None,
        "tracking_error_rad": _tracking(episode),
    }


def _tracking(episode: Episode) -> dict[str, float | int | None]:
    errors = np.concatenate([tracking_error_rad(episode, k, arm) for k, arm in enumerate(m.ARMS)])
    return quantiles(errors[~np.isnan(errors)])


def tracking_error_rad(episode: Episode, k: int, arm: m.ArmName) -> Float64:
    """Largest joint difference of each of the arm's N measurements from the command in force then; NaN before any."""
    commands, measured = episode.commands, episode.measured[arm]
    row = np.searchsorted(commands.at_ns, measured.at_ns, side="right") - 1
    errors, known = np.full(len(row), np.nan), row >= 0
    wanted = commands.position_rad[row[known], 6 * k : 6 * k + 6]
    errors[known] = np.abs(wanted - measured.position_rad[known]).max(axis=1, initial=0.0)
    return errors


def _waiting(episode: Episode) -> dict[str, Any]:
    """Whether any joint command waited for the planner, from the stamps alone.

    The planner is busy from the observation it looks at until its intent is sent. A loop that waits for it
    sends nothing in that time, so its longest silence is about as long as the thinking. ``waited`` counts the
    thoughts during which the commands were silent for more than half of it (and more than 3 periods).
    """
    at_ns = episode.commands.at_ns
    if len(at_ns) < 2:
        return {"commands_that_waited": None, "thoughts": len(episode.thinking)}
    period_ns = _period_s(episode) * NS_PER_S
    starts = np.array([t.observation_ns for t in episode.thinking], np.int64)
    ends = np.array([t.arrived_ns for t in episode.thinking], np.int64)
    gaps_s = np.diff(at_ns) / NS_PER_S
    busy = overlaps(at_ns[:-1], at_ns[1:], starts, ends)
    waited, shares, shortest = 0, [], []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        start, end = max(start, int(at_ns[0])), min(end, int(at_ns[-1]))
        if end - start < period_ns:
            continue
        inside = at_ns[np.searchsorted(at_ns, start) : np.searchsorted(at_ns, end, side="right")]
        silence = np.diff(np.concatenate(([start], inside, [end]))).max()
        waited += bool(silence > max(MISSED_TICKS * period_ns, (end - start) / 2))
        shares.append(len(inside) * period_ns / (end - start))
        shortest.append((end - start) / NS_PER_S)
    return {
        "commands_that_waited": waited,
        "thoughts": len(episode.thinking),
        "shortest_thought_s": _round(min(shortest)) if shortest else None,
        "least_share_of_commands_during_a_thought": round(min(shares), 3) if shares else None,
        "gap_while_planner_busy_s": quantiles(gaps_s[busy]),
        "gap_while_planner_idle_s": quantiles(gaps_s[~busy]),
    }


def overlaps(lows: Int64, highs: Int64, starts: Int64, ends: Int64) -> npt.NDArray[np.bool_]:
    """Which of the intervals (low, high) touch the inside of one of (start, end); starts ascend."""
    if not len(starts):
        return np.zeros(len(lows), np.bool_)
    reach = np.maximum.accumulate(ends)  # how far any interval that began until here goes
    last = np.searchsorted(starts, highs, side="left") - 1  # the last one that begins before ``high``
    return (last >= 0) & (reach[np.maximum(last, 0)] > lows)


def _holds(episode: Episode) -> dict[str, Any]:
    spans = [span for span in episode.modes if span.mode in STOPPED_MODES]
    return {
        "count": len(spans),
        "total_s": _round(sum(span.end_ns - span.start_ns for span in spans) / NS_PER_S),
        "each": [
            {
                "mode": span.mode.value,
                "start_s": _round(episode.second(span.start_ns)),
                "duration_s": _round((span.end_ns - span.start_ns) / NS_PER_S),
                "causes": [{"code": r.code, "detail": r.detail, "next_step": r.next_step} for r in span.reasons],
            }
            for span in spans
        ],
    }


def _interventions(episode: Episode) -> dict[str, Any]:
    """When a person took over, and for how long."""
    spans = episode.interventions
    return {
        "count": len(spans),
        "total_s": _round(sum(span.end_ns - span.start_ns for span in spans) / NS_PER_S),
        "each": [
            {
                "override_id": span.override_id,
                "start_s": _round(episode.second(span.start_ns)),
                "duration_s": _round((span.end_ns - span.start_ns) / NS_PER_S),
            }
            for span in spans
        ],
    }


def _gate(episode: Episode) -> dict[str, Any]:
    """The gate's counters over the episode; it counts from its own start, so the first reading is subtracted."""
    limited = episode.commands.limited
    first, last = (episode.safety[0], episode.safety[-1]) if episode.safety else (None, None)
    return {
        "clamped": last.clamped_count - first.clamped_count if first and last else None,
        "refused": last.refused_count - first.refused_count if first and last else None,
        "commands_limited": int((limited != 0).sum()),
        "joints_limited": [j for j in range(m.PROPRIOCEPTION) if ((limited >> j) & 1).any()],
        "least_arm_distance_m": _round(min(s.arm_distance_m for s in episode.safety)) if episode.safety else None,
    }


def _topic(stamps: Stamps) -> dict[str, Any]:
    """Counts and gaps of one topic, by the sender's stamps and numbers."""
    sent_ns = stamps.sent_ns
    span_s = (int(sent_ns[-1]) - int(sent_ns[0])) / NS_PER_S
    same_life = np.diff(stamps.epoch) == 0
    missing = np.diff(stamps.sequence)[same_life] - 1
    return {
        "count": len(sent_ns),
        "rate_hz": round((len(sent_ns) - 1) / span_s, 3) if span_s > 0 else None,
        "longest_gap_s": _round(np.diff(sent_ns).max() / NS_PER_S) if len(sent_ns) > 1 else None,
        "lost": int(missing[missing > 0].sum()),
        "restarts": int((~same_life).sum()),
    }
