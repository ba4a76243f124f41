"""The modes as the page shows them: only while the robot says so, each cause only while it is named."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from syvla import messages as m
from syvla.report.episode import SILENT_NS, Episode
from syvla.report.origins import Int64
from syvla.report.spans import stretches


def mode_rows(episode: Episode) -> list[list[Any]]:
    """[from, to, mode, reasons] in seconds; a reason is [code, detail, next step, [[from, to], ...]].

    A mode ends when the robot has said nothing for ``SILENT_NS``, and begins again when it does.
    """
    at_ns = np.array([state.stamp_ns for state in episode.safety], np.int64)
    rows: list[list[Any]] = []
    for span in episode.modes:
        first, beyond = np.searchsorted(at_ns, [span.start_ns, span.end_ns + 1]).tolist()
        states = [state for state in episode.safety[first:beyond] if state.mode is span.mode]
        stamps_ns = np.array([state.stamp_ns for state in states], np.int64)
        for start, end, start_ns, end_ns in _heard(stamps_ns, span.end_ns):
            until_ns = np.append(stamps_ns[start + 1 : end], end_ns)  # of each state: the next, or the end
            reasons = [
                [code, reason.detail, reason.next_step, [[episode.second(a), episode.second(b)] for a, b in named_ns]]
                for code, (reason, named_ns) in _named(states[start:end], until_ns).items()
            ]
            rows.append([episode.second(start_ns), episode.second(end_ns), span.mode.value, reasons])
    return rows


def _heard(stamps_ns: Int64, end_ns: int) -> Iterator[tuple[int, int, int, int]]:
    """Stretches without silence: first row, that after the last, from when, to when."""
    ends = [*(np.flatnonzero(np.diff(stamps_ns) > SILENT_NS) + 1).tolist(), len(stamps_ns)] if len(stamps_ns) else []
    start = 0
    for end in ends:
        next_ns = int(stamps_ns[end]) if end < len(stamps_ns) else max(end_ns, int(stamps_ns[-1]))
        yield start, end, int(stamps_ns[start]), min(next_ns, int(stamps_ns[end - 1]) + SILENT_NS)
        start = end


def _named(states: list[m.SafetyState], until_ns: Int64) -> dict[str, tuple[m.Reason, list[tuple[int, int]]]]:
    """Each reason as it was first named, by its code, and when it was named."""
    first: dict[str, m.Reason] = {}
    for state in states:
        for reason in state.reasons:
            first.setdefault(reason.code, reason)
    at_ns = np.array([state.stamp_ns for state in states], np.int64)
    codes = [{reason.code for reason in state.reasons} for state in states]
    found: dict[str, tuple[m.Reason, list[tuple[int, int]]]] = {}
    for code, reason in first.items():
        spans = stretches(at_ns, np.array([code in named for named in codes], np.bool_))
        found[code] = reason, [(each.start_ns, int(until_ns[each.last])) for each in spans]
    return found
