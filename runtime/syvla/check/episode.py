"""Checks one recording: every rule over every message, once, in memory that does not grow with the episode."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from syvla.check.arms import ArmsRule
from syvla.check.finding import EpisodeCheck, Finding, Rule, Severity, Span
from syvla.check.images import ImagesRule
from syvla.check.stamps import StampsRule, own_rates_hz
from syvla.check.told import TaskRule, ToldRule
from syvla.check.values import ValuesRule
from syvla.clock import to_s
from syvla.config import RunConfig
from syvla.errors import MessageError, RecordingError
from syvla.plain import plain
from syvla.recording.mcap_log import is_being_written
from syvla.recording.mcap_read import Recording, unpacked
from syvla.report.episode import known_configuration

# how an episode ended that was not brought to its end; what the operator said about a whole one is no fault
_OUTCOMES = {
    "interrupted": (Severity.WARNING, "the recording was interrupted", "see whether the task was done to its end"),
    "discarded": (Severity.WARNING, "the operator discarded it", "leave the episode out"),
    "write_error": (Severity.ERROR, "it could not be written to its end", "free the disk and record again"),
}


def check_episode(path: Path) -> EpisodeCheck:
    """Everything that is wrong with the recording at ``path``; what is no recording is one finding."""
    try:
        recording = Recording(path)
    except RecordingError as error:
        return EpisodeCheck(path=shown(path), readable=False, findings=[_unreadable(path, error)])
    with np.errstate(all="ignore"):  # a hostile number may be as large as it likes
        return _checked(recording)


def shown(path: Path) -> str:
    """A path as it can be printed."""
    return plain(str(path), most=4096)


def _checked(recording: Recording) -> EpisodeCheck:
    run = _usable(known_configuration(recording))
    converted = "converted_from" in recording.run  # at a rate of its own, and of what the other format holds
    images, task, values = ImagesRule(run, converted), TaskRule(run, converted), ValuesRule()
    stamps = StampsRule(run, own_rates_hz(recording) if converted else {})
    rules: tuple[Rule, ...] = (task, stamps, images, ArmsRule(run), values, ToldRule())
    count, start_ns, end_ns = 0, 0, 0
    damage = ""
    try:
        for raw in recording.records():
            start_ns = raw.log_time_ns if count == 0 else start_ns
            end_ns = max(end_ns, raw.log_time_ns)
            count += 1
            try:
                recorded = unpacked(raw)
            except MessageError as error:
                values.refused(raw, str(error))
                continue
            for rule in rules:
                rule.see(recorded)
    except RecordingError as error:
        damage = _without_path(recording.path, error)
    span = Span(start_ns, end_ns)
    found = [*_file(recording, span, damage), *_contents(run, count)]
    if count:
        found += [finding for rule in rules for finding in rule.findings(span)]
    return EpisodeCheck(
        path=shown(recording.path),
        readable=True,
        instruction=plain(task.instruction),
        outcome=plain(recording.outcome.get("outcome", "")),
        duration_s=round(to_s(end_ns - start_ns), 3),
        messages=count,
        cameras=images.cameras,
        findings=sorted(found, key=_gravest_first),
    )


def _usable(run: RunConfig | None) -> RunConfig | None:
    """The configuration, unless it has numbers in it that no rig has."""
    if run is None:
        return None
    safety = run.rig.safety
    possible = 1.0 <= run.rig.control.rate_hz <= 10_000.0 and 0.0 <= safety.feedback_stale_s <= 3600.0
    return run if possible and 0 <= safety.missed_ticks_to_hold <= 1_000_000 else None


def _gravest_first(finding: Finding) -> tuple[bool, float, str, str]:
    at_s = -math.inf if finding.at_s is None else finding.at_s
    return finding.severity is not Severity.ERROR, at_s, finding.name, finding.where


def _file(recording: Recording, span: Span, damage: str) -> Iterator[Finding]:
    path, error = recording.path, Severity.ERROR
    if damage:
        yield Finding(
            name="file.damaged", severity=error, where="file", at_s=span.second(span.end_ns), seen=damage,
            fix="what comes after this instant was not checked; leave the episode out",
        )  # fmt: skip
    elif recording.ends_early and is_being_written(path):
        yield Finding(
            name="file.being_written", severity=Severity.WARNING, where="file", at_s=span.second(span.end_ns),
            seen="it is still being recorded", fix="check it again when the episode is over",
        )  # fmt: skip
    elif recording.ends_early:
        repaired = path.with_name(path.name.split(".mcap")[0] + ".repaired.mcap")
        fix = (
            f"leave it out, {plain(repaired.name)} beside it holds the same"
            if repaired.is_file()
            else "the recorder repairs it when it next starts in this folder; see whether the task was done"
        )
        yield Finding(
            name="file.ends_early", severity=error, where="file", at_s=span.second(span.end_ns),
            seen=plain(recording.ends_early), fix=fix,
        )  # fmt: skip
    outcome = recording.outcome.get("outcome", "")
    if outcome in _OUTCOMES:
        severity, seen, fix = _OUTCOMES[outcome]
        yield Finding(name=f"outcome.{outcome}", severity=severity, where="file", seen=seen, fix=fix)


def _contents(run: RunConfig | None, count: int) -> Iterator[Finding]:
    if run is None:
        yield Finding(
            name="file.no_configuration", severity=Severity.WARNING, where="run.json",
            seen="it does not say what it was recorded with, or another version wrote that",
            fix="nothing: rates are not judged, and limits are the Piper's",
        )  # fmt: skip
    if count == 0:
        yield Finding(
            name="file.empty", severity=Severity.ERROR, where="file", seen="it holds no message", fix="leave it out"
        )


def _unreadable(path: Path, error: RecordingError) -> Finding:
    return Finding(
        name="file.unreadable", severity=Severity.ERROR, where="file", seen=_without_path(path, error),
        fix="it is no recording of syvla, or damaged at its head: take it out",
    )  # fmt: skip


def _without_path(path: Path, error: RecordingError) -> str:
    return plain(str(error).removeprefix(f"{path}: "))
