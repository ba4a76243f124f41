"""What the doctor finds: one fact of the machine, how good it is, and what to do about it."""

from collections.abc import Sequence
from enum import Enum

import msgspec

SCHEMA_VERSION = 1


class State(Enum):
    """How good it is. Only a ``problem`` keeps the chosen rig from running."""

    OK = "ok"
    WARNING = "warning"  # it runs, worse than it should
    PROBLEM = "problem"  # the rig needs it
    NOT_HERE = "not_here"  # and not needed


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One fact. ``name`` is area.subject and does not change between versions; ``fix`` is a command or a step."""

    name: str
    state: State
    seen: str
    fix: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What ``syvla doctor --json`` prints. ``schema_version`` grows when a field changes its meaning."""

    schema_version: int = SCHEMA_VERSION
    rig: str
    kind: str
    policy: str
    well: bool
    findings: Sequence[Finding]


def ok(name: str, seen: str) -> Finding:
    """Nothing to do."""
    return Finding(name=name, state=State.OK, seen=seen)


def warning(name: str, seen: str, fix: str) -> Finding:
    """It runs, worse than it should."""
    return Finding(name=name, state=State.WARNING, seen=seen, fix=fix)


def problem(name: str, seen: str, fix: str) -> Finding:
    """The rig does not run."""
    return Finding(name=name, state=State.PROBLEM, seen=seen, fix=fix)


def missing(name: str, seen: str, fix: str, *, needed: bool) -> Finding:
    """A problem where it is needed; otherwise it is just not here."""
    return Finding(name=name, state=State.PROBLEM if needed else State.NOT_HERE, seen=seen, fix=fix)


def wanting(name: str, seen: str, fix: str, *, wanted: bool) -> Finding:
    """A warning where the rig is the worse for it; otherwise it is just not here."""
    return Finding(name=name, state=State.WARNING if wanted else State.NOT_HERE, seen=seen, fix=fix)
