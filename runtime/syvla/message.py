"""What every message is: a frozen struct whose arrays, texts and lists are checked when it is built."""

import functools
import typing
from math import isfinite
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from syvla.errors import MessageError

MAX_ITEMS = 64  # of a list or a map
NOT_FINITE = "must be finite"  # of an array with a NaN or an infinity in it

Array = npt.NDArray[np.generic]
Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Float16 = npt.NDArray[np.float16]
UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
Int64 = npt.NDArray[np.int64]


class ArraySpec(NamedTuple):
    """What an array field must be; ``shape`` gives a size, or the (least, most) it may have."""

    dtype: str
    shape: tuple[int | tuple[int, int], ...]
    finite: bool = True

    def refusal(self, value: object) -> str | None:
        """Why ``value`` is not this array, or None."""
        if not isinstance(value, np.ndarray):
            return f"must be an array, not {type(value).__name__}"
        if value.dtype != np.dtype(self.dtype):
            return f"must have dtype {np.dtype(self.dtype)}, not {value.dtype}"
        if value.ndim != len(self.shape):
            return f"must have {len(self.shape)} dimensions, not shape {value.shape}"
        for size, allowed in zip(value.shape, self.shape, strict=True):
            least, most = (allowed, allowed) if isinstance(allowed, int) else allowed
            if not least <= size <= most:
                return f"must have shape {self._shape_text()}, not {value.shape}"
        if self.finite and value.dtype.kind == "f" and not np.isfinite(value).all():
            return NOT_FINITE
        return None

    def _shape_text(self) -> str:
        sizes = (str(s) if isinstance(s, int) else f"{s[0]}..{s[1]}" for s in self.shape)
        return f"({', '.join(sizes)})"


_SHORT = 32
_KNOWN_SHAPES = 16


class _ArrayCheck(NamedTuple):
    """An array field, prepared for the common case: a shape that was found right before."""

    field: str
    spec: ArraySpec
    dtype: np.dtype[np.generic]
    finite: bool
    known_shapes: set[tuple[int, ...]]

    def refusal(self, value: Array) -> str | None:
        """Why ``value`` is not right, or None."""
        if value.__class__ is np.ndarray and value.dtype is self.dtype and value.shape in self.known_shapes:
            if not self.finite:
                return None
            if value.ndim == 1 and len(value) <= _SHORT:  # a list is quicker than numpy here
                return None if all(map(isfinite, value.tolist())) else NOT_FINITE
            return None if np.isfinite(value).all() else NOT_FINITE
        refusal = self.spec.refusal(value)
        if refusal is None and len(self.known_shapes) < _KNOWN_SHAPES:
            self.known_shapes.add(value.shape)
        return refusal


class _Checks(NamedTuple):
    """What is checked when a message of one type is built."""

    arrays: tuple[_ArrayCheck, ...]
    limits: tuple[tuple[str, int, str], ...]  # field, greatest length, of what


@functools.cache
def _checks(kind: "type[Message]") -> _Checks:
    arrays = []
    for field, spec in kind.ARRAYS.items():
        dtype = np.dtype(spec.dtype)
        arrays.append(_ArrayCheck(field, spec, dtype, spec.finite and dtype.kind == "f", set()))
    texts = ((field, limit, "characters") for field, limit in kind.TEXT_LIMITS.items())
    fields = msgspec.structs.fields(kind)
    items = ((f.name, MAX_ITEMS, "items") for f in fields if typing.get_origin(f.type) in (tuple, dict))
    return _Checks(tuple(arrays), (*texts, *items))


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, eq=False):
    """Base of all wire types. Array fields are declared in ``ARRAYS`` and become read-only views.

    A tuple or dict has at most ``MAX_ITEMS`` items, a text at most what ``TEXT_LIMITS`` says.
    """

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {}
    TEXT_LIMITS: ClassVar[dict[str, int]] = {}

    def __post_init__(self) -> None:
        arrays, limits = _checks(type(self))
        for check in arrays:
            value = getattr(self, check.field)
            if value is None:  # the type annotation decides whether None is allowed
                continue
            refusal = check.refusal(value)
            if refusal is not None:
                raise MessageError(f"{type(self).__name__}.{check.field} {refusal}")
            flags = value.flags
            if flags.writeable or not flags.c_contiguous:
                view = np.ascontiguousarray(value).view()
                view.flags.writeable = False
                msgspec.structs.force_setattr(self, check.field, view)
        for field, limit, unit in limits:
            length = len(getattr(self, field))
            if length > limit:
                raise MessageError(f"{type(self).__name__}.{field} must have at most {limit} {unit}, not {length}")
