"""``syvla demo``: the whole loop on the twin, with a live panel, and a report at the end."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from syvla.apps.director import Episode
from syvla.apps.realtime import RunResult, run_realtime
from syvla.config import RunConfig
from syvla.control.gamepad import CONTROLS
from syvla.errors import RecordingError
from syvla.report.write import write_report
from syvla.runs import RunFolder


def demo(run: RunConfig, episodes: Sequence[Episode], folder: RunFolder, console: Console) -> int:
    """Run the demo and write its report; the exit status."""
    console.print(f"run folder [bold]{folder.path}[/]")
    console.print(f"policy {run.policy_name}", markup=False, highlight=False)
    console.print("  s, f, d             end the episode: a success, a failure, not worth keeping", highlight=False)
    if run.joystick:
        for control, does in CONTROLS:
            console.print(f"  {control:20s}{does}", markup=False, highlight=False)
    result = run_realtime(run, episodes, folder, console)
    for notice in result.notices:
        console.print(notice, style="yellow", markup=False)
    for outcome in result.outcomes:
        verdict = "[green]done[/]" if outcome.success else f"[red]not done[/] ({escape(outcome.why)})"
        console.print(f"{outcome.episode.task}: {verdict} in {outcome.duration_s:.1f} s: {escape(outcome.instruction)}")
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
            try:
                own, *_ = write_report(recording, folder.path)
            except RecordingError as error:  # cut off before there was anything to draw
                console.print(str(error), style="yellow", markup=False)
                continue
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
            "missed_ticks": result.missed_ticks,
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
