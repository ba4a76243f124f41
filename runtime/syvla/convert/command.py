"""``syvla convert``: every episode of every source, one after the other, into a data set that is whole or not there."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from syvla.convert.found import Reading, episodes_of, expanded
from syvla.convert.journal import Journal, Plan, unique
from syvla.convert.making import WriteError, Writer, writing
from syvla.convert.rows import Episode, Facts, Grid
from syvla.digest import text_sha256
from syvla.errors import RecordingError, SyvlaError
from syvla.extras import check_convert
from syvla.plain import LINE, plain

Target = Literal["lerobot", "aloha", "mcap"]
_NEEDED: dict[Target, tuple[str, ...]] = {"lerobot": ("pyarrow", "av"), "aloha": ("h5py",), "mcap": ()}


class Writing(NamedTuple):
    """What is made, and what is said where a source does not."""

    to: Target
    grid: Grid
    fps: int | None = None  # None: the sources' own, or that of the grid
    outcome: str = ""
    jpeg_quality: int = 90
    run: str = ""  # the configuration that a recording carries whose source has none


def convert(sources: Sequence[Path], out: Path, reading: Reading, wanted: Writing, console: Console) -> int:
    """Convert ``sources`` into the folder ``out``; the exit status: 0, or 2 if an episode was refused.

    Raises:
        SyvlaError: A source is nothing known, or ``out`` is taken; nothing was made then.
    """
    check_convert(*_NEEDED[wanted.to])
    episodes, refused = _opened(sources, reading, wanted, console)
    if not episodes:
        return 2
    names = unique([each.name for each in episodes])
    grid = wanted.grid._replace(fps=_rate(episodes, wanted))
    plan = Plan(_settings(reading, wanted, grid), [each.origin for each in episodes])
    try:
        with Journal(out, plan) as journal:
            writer = _writer(episodes, journal, wanted, grid.fps)
            count, refused_then = _write_all(episodes, names, grid, journal, writer, console)
    except WriteError as error:
        raise WriteError(f"{error}; what is done stays, and the same command goes on with it") from error
    if count:
        _say(console, f"{count} of {len(episodes)} episodes in {out}, read back and compared")
    return 2 if refused or refused_then else 0


def _write_all(
    episodes: Sequence["_Told"], names: Sequence[str], grid: Grid, journal: Journal, writer: Writer, console: Console
) -> tuple[int, int]:
    """Make what is not made yet, and the data set from it; how many episodes are in it, and how many were refused."""
    done = {made.origin for made in journal.made()}
    count, refused = len(done), 0
    if done:
        _say(console, f"{count} of {len(episodes)} are in {journal.folder} already")
    with _progress(console) as progress:
        bar = progress.add_task("", total=len(episodes), completed=count, what="", counted=0, unit=writer.unit)
        for episode, name in zip(episodes, names, strict=True):
            if episode.origin in done:
                continue
            progress.update(bar, what=name, counted=0)
            try:
                made = writer.write(count, name, episode, grid, _ticker(progress, bar))
            except WriteError:
                raise
            except SyvlaError as error:
                refused += 1
                _say(progress.console, f"refused: {error}")
                progress.update(bar, advance=1)
                continue
            journal.add(made)
            count += 1
            progress.update(bar, advance=1)
            if not console.is_terminal:
                _say(progress.console, f"[{count}/{len(episodes)}] {name}: {made.rows} {writer.unit}")
    if count == 0:
        journal.discard()
        return 0, refused
    with writing(journal.folder):
        writer.finish(journal.made)
        journal.finish()
    return count, refused


def _opened(sources: Sequence[Path], reading: Reading, wanted: Writing, console: Console) -> tuple[list["_Told"], int]:
    """The episodes of all sources, and how many sources were refused."""
    episodes: list[_Told] = []
    refused = 0

    @contextlib.contextmanager
    def refusing() -> Iterator[None]:
        nonlocal refused
        try:
            yield
        except (RecordingError, OSError) as error:
            refused += 1
            told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            _say(console, f"refused: {told}")

    for path in sources:
        found: list[Path] = []
        with refusing():
            found = expanded(path, reading)
        for source in found:
            with refusing():
                episodes += [_Told(each, wanted.outcome) for each in episodes_of(source, reading, wanted.to)]
    return list({each.origin: each for each in episodes}.values()), refused


class _Told:
    """An episode whose outcome is told where the source does not say it."""

    def __init__(self, episode: Episode, outcome: str) -> None:
        self._episode = episode
        self._outcome = outcome
        self.origin = episode.origin
        self.name = episode.name
        self.fps = episode.fps
        self.rows = episode.rows
        self.messages = episode.messages

    @property
    def facts(self) -> Facts:
        facts = self._episode.facts
        return facts._replace(outcome=facts.outcome or self._outcome)


def _rate(episodes: Sequence[Episode], wanted: Writing) -> int:
    """The rate of the rows: the one asked for, which must be that of sources that have rows already."""
    own = {episode.fps: episode.origin for episode in episodes if episode.fps is not None}
    rate = wanted.fps or next(iter(own), wanted.grid.fps)
    for fps, origin in own.items():
        if fps != rate:
            raise RecordingError(f"{origin}: has {fps} rows a second, not {rate}; rows are not resampled")
    return rate


def _writer(episodes: Sequence[Episode], journal: Journal, wanted: Writing, fps: int) -> Writer:
    if wanted.to == "mcap":
        from syvla.convert.ours import McapWriter

        return McapWriter(journal.folder, wanted.jpeg_quality, wanted.run)
    if wanted.to == "lerobot":
        from syvla.convert.lerobot_write import LeRobotWriter

        return LeRobotWriter(journal.folder, fps, journal.made(), all(map(_has_outcome, episodes)))
    from syvla.convert.aloha_write import AlohaWriter

    return AlohaWriter(journal.folder, wanted.jpeg_quality)


def _has_outcome(episode: Episode) -> bool:
    try:
        return episode.facts.outcome in ("success", "failure")
    except RecordingError:  # it will be refused, and is none of the data set's
        return True


def _settings(reading: Reading, wanted: Writing, grid: Grid) -> dict[str, str]:
    cameras: Mapping[str, str] = reading.cameras or {}
    return {
        "to": wanted.to,
        "from": reading.format or "auto",
        "fps": str(grid.fps),
        "max-age": str(grid.max_age_s),
        "instruction": grid.instruction,
        "outcome": wanted.outcome,
        "jpeg": str(wanted.jpeg_quality),
        "camera": " ".join(f"{ours}={theirs}" for ours, theirs in cameras.items()),
        "profile": reading.profile,
        "gripper-unit": str(reading.gripper_unit_m),
        "swapped-colours": str(reading.swapped),
        "rig": text_sha256(wanted.run) if wanted.run else "",
    }


def _progress(console: Console) -> Progress:
    columns = (
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[what]}  {task.fields[counted]} {task.fields[unit]}", markup=False),
    )  # fmt: skip
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _ticker(progress: Progress, bar: object) -> Callable[[], None]:
    counted = 0

    def tick() -> None:
        nonlocal counted
        counted += 1
        if counted % 100 == 0:
            progress.update(bar, counted=counted)  # type: ignore[arg-type]

    return tick


def _say(console: Console, text: str) -> None:
    console.print(plain(text, LINE), markup=False, highlight=False, soft_wrap=True)
