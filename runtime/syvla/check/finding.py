"""What a check finds: what is wrong with an episode, where and when first, and what to do about it."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from syvla.clock import to_s
from syvla.recording.mcap_read import Recorded

SCHEMA_VERSION = 1
KIND = "syvla check"


class Severity(Enum):
    """How bad it is. An ``error`` makes the episode unfit as it is, a ``warning`` is to be looked at."""

    WARNING = "warning"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. ``name`` is area.subject and does not change between versions; ``fix`` says what to do.

    ``where`` is the topic, joint, camera or process, ``at_s`` when it was so first, in seconds since the episode began
    (None: all along), ``count`` how often.
    """

    name: str
    severity: Severity
    where: str
    seen: str
    fix: str
    at_s: float | None = None
    count: int = 1


class EpisodeCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One file: what it says it is, and what is wrong with it. ``readable`` is False for what is no recording."""

    path: str
    readable: bool
    instruction: str = ""
    outcome: str = ""
    duration_s: float = 0.0
    messages: int = 0
    cameras: Sequence[str] = ()
    findings: Sequence[Finding] = ()

    def number(self, severity: Severity) -> int:
        """How many findings are that bad."""
        return sum(finding.severity is severity for finding in self.findings)


def verdict(checked: Sequence[EpisodeCheck]) -> str:
    """How many episodes are how good, in words."""
    bad = sum(each.number(Severity.ERROR) > 0 for each in checked)
    odd = sum(bool(each.findings) for each in checked) - bad
    return f"{len(checked)} checked: {len(checked) - bad - odd} without fault, {odd} with warnings, {bad} with errors"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What ``syvla check --json`` writes. ``schema_version`` grows when a field changes its meaning."""

    kind: str = KIND
    schema_version: int = SCHEMA_VERSION
    well: bool
    episodes: Sequence[EpisodeCheck]


class Span(msgspec.Struct, frozen=True):
    """The episode on the recorder's clock, from its first message to its last."""

    start_ns: int
    end_ns: int

    def second(self, at_ns: int) -> float:
        """An instant as seconds since the start."""
        return round(to_s(at_ns - self.start_ns), 3)


class Rule(Protocol):
    """Sees every message once, in the order of arrival, keeps running figures only, and judges at the end."""

    def see(self, recorded: Recorded) -> None:
        """Take in one message."""
        ...

    def findings(self, span: Span) -> Iterable[Finding]:
        """What is wrong."""
        ...


class Tally:
    """How often something was seen, when first, and the largest of what was told with it."""

    __slots__ = ("count", "first_ns", "worst")

    def __init__(self) -> None:
        self.count = 0
        self.first_ns = 0
        self.worst = 0.0

    def add(self, at_ns: int, amount: float = 0.0, count: int = 1) -> None:
        """Once more, or ``count`` times."""
        if self.count == 0:
            self.first_ns = at_ns
        self.count += count
        self.worst = max(self.worst, amount)

    def told(self, span: Span, severity: Severity, name: str, where: str, seen: str, fix: str) -> Iterator[Finding]:
        """The finding, if it was seen at all."""
        if self.count:
            yield Finding(
                name=name, severity=severity, where=where, seen=seen, fix=fix,
                at_s=span.second(self.first_ns), count=self.count,
            )  # fmt: skip
