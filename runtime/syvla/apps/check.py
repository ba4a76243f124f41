"""``syvla check``: what is wrong with recorded episodes, as a table, as JSON and as a page."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from syvla.apps.parallel import in_order
from syvla.apps.results import check_ours, replace_ours
from syvla.check.episode import check_episode, shown
from syvla.check.finding import KIND, EpisodeCheck, Finding, Report, Severity, verdict
from syvla.check.page import MARK, page
from syvla.errors import ConfigError, RecordingError
from syvla.recording.mcap_log import PARTIAL

PAGE = "check.html"
STDOUT = Path("-")
_JSON_MARK = f'{{\n  "kind": "{KIND}"'
_STYLE = {Severity.ERROR: ("ERROR", "bold red"), Severity.WARNING: ("warning", "yellow")}


def check(
    episodes: Sequence[Path], strict: bool, json: Path | None, html: Path | None, jobs: int, console: Console
) -> int:
    """Check every episode and tell what is wrong; 0 nothing, 1 something is, 2 nothing was a recording.

    Args:
        episodes: files, or folders of recordings.
        strict: whether warnings count as well.
        json: where the result is written; "-": printed in the place of the table.
        html: where one page about all of them is written; None: into each folder that was named, as check.html.
        jobs: how many are checked at a time.
        console: where the table goes.

    Raises:
        RecordingError: one of ``episodes`` is not there, or a folder without recordings.
        ConfigError: ``json`` or ``html`` is something else than an older result.
    """
    files = {path: list(recordings(path)) for path in dict.fromkeys(episodes)}
    paths = list(dict.fromkeys(file for found in files.values() for file in found))
    for target, mark in ((json, _JSON_MARK), (html, MARK)):
        if target is not None and target != STDOUT:
            check_ours(target, mark, KIND)
    quiet = json == STDOUT
    checked: dict[Path, EpisodeCheck] = {}
    with console.status("") as status_line:
        results = in_order(check_episode, paths, jobs)
        for number, path in enumerate(paths, 1):
            status_line.update(Text(f"{number}/{len(paths)} {shown(path)}"))
            checked[path] = result = next(results)
            if not quiet:
                _tell(console, result, number, len(paths))
    everything = list(checked.values())
    status = _status(everything, strict)
    if not quiet:
        console.print(Text(f"\n{verdict(everything)}", style="bold red" if status else "bold green"))
    report = Report(well=status == 0, episodes=everything)
    if json is not None:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
        if quiet:
            sys.stdout.write(text)
        else:
            _say(console, replace_ours(json, text, _JSON_MARK, KIND))
    if html is not None:
        said = replace_ours(html, page(everything), MARK, KIND)
        if not quiet:
            _say(console, said)
        return status
    for folder, found in files.items():
        if folder.is_dir():
            try:
                said = replace_ours(folder / PAGE, page([checked[file] for file in found]), MARK, KIND)
            except ConfigError as error:  # a folder that may only be read, say
                said = f"no page was written: {error}; name another place with --html"
            if not quiet:
                _say(console, said)
    return status


def recordings(path: Path) -> Iterator[Path]:
    """The file, or the recordings in a folder or in the ``recordings`` of a run's folder; RecordingError if none."""
    try:
        if not path.is_dir():
            path.lstat()
            yield path
            return
        for folder in (path, path / "recordings"):
            found = sorted(file for ending in ("", PARTIAL) for file in folder.glob(f"*.mcap{ending}"))
            if found:
                yield from found
                return
    except OSError as error:
        raise RecordingError(f"{shown(path)}: {error.strerror}") from error
    raise RecordingError(f"{shown(path)}: no recordings (*.mcap, *.mcap{PARTIAL}) in this folder")


def _status(checked: Sequence[EpisodeCheck], strict: bool) -> int:
    if not any(each.readable for each in checked):
        return 2
    wrong = any(each.number(Severity.ERROR) or (strict and each.findings) for each in checked)
    return 1 if wrong else 0


def _tell(console: Console, checked: EpisodeCheck, number: int, of: int) -> None:
    errors, warnings = (checked.number(severity) for severity in (Severity.ERROR, Severity.WARNING))
    style = "bold red" if errors else "yellow" if warnings else "green"
    counts = ", ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in ((errors, "error"), (warnings, "warning")) if n)
    line = Text(f"[{number}/{of}] ", style="dim").append(checked.path, style="bold").append("  ")
    if checked.readable:
        line.append(f"{checked.duration_s:.1f} s, {checked.outcome or 'no outcome'}  ")
    console.print(line.append(counts or "ok", style=style), soft_wrap=True)
    for finding, after in itertools.zip_longest(checked.findings, checked.findings[1:]):
        console.print(_row(finding))
        if after is not None and after.fix == finding.fix:
            continue  # said once for all of them
        console.print(Text(f"            -> {finding.fix}", style="cyan"), soft_wrap=True)


def _row(finding: Finding) -> Table:
    mark, style = _STYLE[finding.severity]
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(width=10, no_wrap=True, justify="right")
    row.add_column(width=23, no_wrap=True)
    row.add_column(ratio=1)
    row.add_row(Text(mark, style=style), Text(finding.name, style="bold"), Text(words(finding)))
    return row


def words(finding: Finding) -> str:
    """Where, what, when and how often, in one line."""
    when = "" if finding.at_s is None else f", first at {finding.at_s:.2f} s"
    often = "" if finding.count == 1 else f" ({finding.count} times)"
    return f"{finding.where}: {finding.seen}{when}{often}"


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
