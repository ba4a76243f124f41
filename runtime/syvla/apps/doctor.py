"""``syvla doctor``: is this machine ready for a rig? It looks, says what it saw and the fix, and changes nothing."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from syvla.apps.doctor_devices import camera_findings, can_findings, controller_findings
from syvla.apps.doctor_machine import clock_findings, disk_findings, gpu_findings, realtime_findings
from syvla.apps.doctor_software import calibration_findings, checkpoint_findings, ros_findings, twin_findings
from syvla.apps.finding import Finding, Report, State, problem
from syvla.apps.machine import Machine
from syvla.config import RigConfig

_MARK = {
    State.OK: ("ok", "green"),
    State.WARNING: ("warning", "yellow"),
    State.PROBLEM: ("PROBLEM", "bold red"),
    State.NOT_HERE: ("not here", "dim"),
}


def findings(machine: Machine, rig: RigConfig, policy: str, runs: Path) -> Iterator[Finding]:
    """Everything there is to find, one by one as it is found."""
    areas: dict[str, Callable[[], Iterator[Finding]]] = {
        "calibration": lambda: calibration_findings(rig),
        "can": lambda: can_findings(machine, rig),
        "cameras": lambda: camera_findings(machine, rig),
        "controller": lambda: controller_findings(machine, rig),
        "realtime": lambda: realtime_findings(machine, rig),
        "disk": lambda: disk_findings(rig, runs),
        "clock": lambda: clock_findings(machine),
        "twin": lambda: twin_findings(machine, rig),
        "ros": lambda: ros_findings(machine, rig),
        "gpu": lambda: gpu_findings(machine),
        "checkpoint": lambda: checkpoint_findings(machine, rig, policy),
    }
    for area, look in areas.items():
        yield from _looked_at(area, look)


def _looked_at(area: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except (OSError, ValueError) as error:  # a file that vanished, a number that is none
        yield problem(f"{area}.unreadable", f"this could not be looked at: {error}", "see what is wrong with that file")


def doctor(machine: Machine, rig: RigConfig, policy: str, runs: Path, as_json: bool) -> int:
    """Print what is found, for people as it is found or as JSON at the end; 1 if the rig lacks something it needs."""
    found = findings(machine, rig, policy, runs)
    if as_json:
        report = summed_up(rig, policy, list(found))
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
        return 0 if report.well else 1
    console = Console()
    seen = []
    for finding in found:
        seen.append(finding)
        console.print(_row(finding))
        if finding.fix:  # unwrapped, so that a command can be copied
            style = "dim" if finding.state is State.NOT_HERE else "cyan"
            console.print(Text(f"          -> {finding.fix}", style=style), soft_wrap=True)
    report = summed_up(rig, policy, seen)
    console.print(_verdict(report))
    return 0 if report.well else 1


def summed_up(rig: RigConfig, policy: str, found: list[Finding]) -> Report:
    """The findings and their verdict."""
    well = all(finding.state is not State.PROBLEM for finding in found)
    return Report(rig=rig.name, kind=rig.kind, policy=policy, well=well, findings=found)


def _row(finding: Finding) -> Table:
    mark, style = _MARK[finding.state]
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(width=8, no_wrap=True)
    row.add_column(width=23, no_wrap=True)
    row.add_column(ratio=1)
    text = Text(finding.seen, style="dim" if finding.state is State.NOT_HERE else "")
    row.add_row(Text(mark, style=style), Text(finding.name, style="bold"), text)
    return row


def _verdict(report: Report) -> Text:
    states = [finding.state for finding in report.findings]
    problems, warnings = states.count(State.PROBLEM), states.count(State.WARNING)
    counts = f"problems: {problems}, warnings: {warnings}"
    if report.well:
        return Text(f"\nrig {report.rig!r} can run here ({counts})", style="bold green")
    return Text(f"\nrig {report.rig!r} cannot run here ({counts})", style="bold red")
