"""Are the numbers numbers: every real number of every message must be finite."""

import functools
import math
import typing
from collections.abc import Iterator

import msgspec
import numpy as np

from syvla.check.finding import Finding, Severity, Span, Tally
from syvla.message import NOT_FINITE, ArraySpec
from syvla.plain import plain
from syvla.recording.mcap_read import RawRecord, Recorded

_MOST = 256  # places that are told apart


class ValuesRule:
    """Numbers that are NaN or infinite, and messages that are not well formed."""

    def __init__(self) -> None:
        self._places: dict[str, Tally] = {}
        self._malformed: dict[str, tuple[Tally, str]] = {}

    def see(self, recorded: Recorded) -> None:
        """Take in one message. Most arrays were found finite when it was decoded."""
        message = recorded.message
        scalars, lists, arrays = _unchecked(type(message))
        for field in scalars:
            if not math.isfinite(getattr(message, field)):
                self._add(f"{recorded.topic}.{field}", recorded.log_time_ns)
        for field in lists:
            items: tuple[msgspec.Struct, ...] = getattr(message, field)
            for item in items:
                if any(not math.isfinite(getattr(item, inner)) for inner in _unchecked(type(item))[0]):
                    self._add(f"{recorded.topic}.{field}", recorded.log_time_ns)
        for field in arrays:
            values = getattr(message, field)
            if values is not None and not np.isfinite(values).all():
                self._add(f"{recorded.topic}.{field}", recorded.log_time_ns)

    def refused(self, raw: RawRecord, error: str) -> None:
        """A message that could not be decoded."""
        if NOT_FINITE in error:
            field = error.split(NOT_FINITE)[0].split(".")[-1].strip()
            self._add(f"{raw.topic}.{plain(field)}", raw.log_time_ns)
        else:
            tally, _ = self._malformed.setdefault(raw.topic, (Tally(), plain(error)))
            tally.add(raw.log_time_ns)

    def findings(self, span: Span) -> Iterator[Finding]:
        """Where."""
        for place, tally in self._places.items():
            yield from tally.told(
                span, Severity.ERROR, "values.not_finite", place, "NaN or infinite",
                "leave the episode out, and see what computes it",
            )  # fmt: skip
        for topic, (tally, error) in self._malformed.items():
            yield from tally.told(
                span, Severity.ERROR, "messages.malformed", topic, error,
                "the file was not written by this recorder, or is damaged",
            )  # fmt: skip

    def _add(self, place: str, at_ns: int) -> None:
        key = place if place in self._places or len(self._places) < _MOST else "elsewhere"
        self._places.setdefault(key, Tally()).add(at_ns)


@functools.cache
def _unchecked(kind: type[msgspec.Struct]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Fields that may be NaN: real numbers, lists of structs that may hold one, and arrays."""
    fields = msgspec.structs.fields(kind)
    scalars = tuple(field.name for field in fields if field.type is float)
    lists = tuple(field.name for field in fields if any(_is_struct(item) for item in typing.get_args(field.type)))
    arrays: dict[str, ArraySpec] = getattr(kind, "ARRAYS", {})
    return scalars, lists, tuple(name for name, spec in arrays.items() if not spec.finite)


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
