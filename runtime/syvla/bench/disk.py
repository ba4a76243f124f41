"""What a slow or full disk does to the control loop: nothing that could be measured, is the aim.

Episodes of the demo run at real time, in turn with a disk that is well, with one that stalls (the recorder's process is
stopped for half of every second, which is what a write that blocks does to it) and with one that fills up (its files
may not grow any more). The robot's lateness is compared, and what became of the recording is looked at.
"""

import contextlib
import os
import resource
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syvla.apps.director import Episode, Outcome
from syvla.apps.realtime import run_realtime
from syvla.bench.conditions import conditions, progress
from syvla.runs import RunFolder, realtime_run

TARGET_S = 1e-3  # by how much the p99 of the lateness may grow
STALL_S, STALL_EVERY_S = 0.5, 1.0
FULL_AFTER_BYTES = 200_000
START_LIMIT_S = 60.0
KINDS = ("well", "stalls", "full")


class Seen(NamedTuple):
    """Of one episode."""

    lateness_p99_s: float
    lateness_max_s: float
    missed_ticks: int
    said: bool  # whether the run's notices say that the recording failed
    marked: bool  # whether the recording is marked as incomplete
    readable: bool  # whether what was written before can be read


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Run ``repeats`` episodes with each kind of disk (5 by default)."""
    repeats = repeats or (1 if quick else 5)
    rows: dict[str, list[Seen]] = {kind: [] for kind in KINDS}
    tell = progress(repeats * len(KINDS))
    for seed in range(repeats):
        for kind in KINDS:
            rows[kind].append(_episode(kind, seed, 5.0 if quick else 15.0, tell))
    p99 = {kind: statistics.median(seen.lateness_p99_s for seen in of) for kind, of in rows.items()}
    grown_s = max(p99[kind] - p99["well"] for kind in KINDS)
    well, full = [seen for kind in KINDS[:2] for seen in rows[kind]], rows["full"]
    kept = all(seen.marked and seen.said and seen.readable for seen in full) and not any(seen.marked for seen in well)
    lines = [
        f"disk {kind}: lateness p99 {p99[kind] * 1e6:.0f} us (median of {len(of)}), worst "
        f"{max(seen.lateness_max_s for seen in of) * 1e3:.1f} ms, {sum(seen.missed_ticks for seen in of)} ticks missed"
        for kind, of in rows.items()
    ]
    lines.append(
        f"  target: p99 grows by less than {TARGET_S * 1e3:.0f} ms, it grew by {grown_s * 1e3:+.2f}; a full disk "
        f"closes the episode, marks it and is told of: {kept}"
    )
    return {
        "benchmark": "disk",
        "conditions": conditions(),
        "runs": {kind: [seen._asdict() for seen in of] for kind, of in rows.items()},
        "median_p99_s": p99,
        "grown_s": grown_s,
        "target_s": TARGET_S,
        "reached": grown_s < TARGET_S and kept,
    }, lines


def _episode(kind: str, seed: int, seconds: float, tell: Callable[[Outcome], None]) -> Seen:
    with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
        folder = RunFolder.create(Path(parent), "disk")
        over = threading.Event()
        afflict: dict[str, Callable[[RunFolder, threading.Event], None]] = {"stalls": _stall, "full": _fill}
        disk = threading.Thread(target=afflict.get(kind, lambda folder, over: None), args=(folder, over))
        disk.start()
        try:
            episode = Episode("snack_loading", "id", seed, kind, seconds)
            result = run_realtime(realtime_run("twin", 0.3, 0.03), [episode], folder, tell=tell)
        finally:
            over.set()
            disk.join()
        late = result.lateness_s or [float("inf")]
        return Seen(
            float(np.quantile(late, 0.99)),
            float(np.max(late)),
            result.missed_ticks,
            any(notice.startswith("recording: ") for notice in result.notices),
            bool(list(folder.recordings.glob("*.incomplete.mcap"))),
            _readable(folder.recordings),
        )


def _readable(recordings: Path) -> bool:
    from syvla.recording.mcap_read import Recording

    return all(next(iter(Recording(path)), None) is not None for path in recordings.glob("*.mcap"))


def _recorder(folder: RunFolder, over: threading.Event) -> int | None:
    """The recorder's process, once it writes; None if there is none."""
    until_s = time.monotonic() + START_LIMIT_S
    while not over.wait(0.05) and time.monotonic() < until_s:
        if not list(folder.recordings.glob("*.mcap.partial")):
            continue
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                if b"recorder" in words and str(folder.path).encode() in words:
                    return int(entry.name)
    return None


def _stall(folder: RunFolder, over: threading.Event) -> None:
    pid = _recorder(folder, over)
    while pid is not None and not over.is_set():
        with contextlib.suppress(ProcessLookupError):  # the run is over
            os.kill(pid, signal.SIGSTOP)
            over.wait(STALL_S)
            os.kill(pid, signal.SIGCONT)
        over.wait(STALL_EVERY_S - STALL_S)


def _fill(folder: RunFolder, over: threading.Event) -> None:
    pid = _recorder(folder, over)
    partial = next(folder.recordings.glob("*.mcap.partial"), None)
    if pid is not None and partial is not None:
        most = partial.stat().st_size + FULL_AFTER_BYTES
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
