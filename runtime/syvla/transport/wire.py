"""The wire form of a message type: the same fields, but bounded, so that decoding builds nothing that it need not.

A message type names arrays, and a decoder would have to build whatever a hostile sender put in their place
before it could judge it. The wire form has a small struct there instead, and a bound on every number, text,
list and map, so that the first wrong byte ends the decoding.
"""

import types
import typing
from collections.abc import Callable, Sequence
from math import prod
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Meta, UnsetType

from syvla.errors import MessageError
from syvla.message import MAX_ITEMS, Array
from syvla.messages import MAX_NAME, MAX_TEXT

MAX_BODY = 256 * 1024
MAX_FRAME = 2 * 1024 * 1024
MAX_ARRAY_FRAMES = 64
MAX_INLINE = 4096  # bytes of an array inside the body; a longer one has a frame of its own
MAX_DIMENSIONS = 4

Buffer: TypeAlias = bytes | memoryview
Dtype = Literal["|u1", "<u2", "<i8", "<f2", "<f4", "<f8"]
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in typing.get_args(Dtype)}

Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]


class WireArray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array inside a body: its bytes in ``data``, or in the array frame number ``frame``."""

    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=MAX_FRAME)], ...], Meta(max_length=MAX_DIMENSIONS)]
    data: Annotated[bytes, Meta(max_length=MAX_INLINE)] | UnsetType = UNSET
    frame: Count | UnsetType = UNSET


class ArrayFrames:
    """The array frames of one message; each must be claimed exactly once."""

    __slots__ = ("_claimed", "_frames")

    def __init__(self, frames: Sequence[Buffer]) -> None:
        self._frames = frames
        self._claimed = 0

    def array(self, wire: WireArray, field: str) -> Array:
        """The array described by ``wire``, a view of the bytes that came; MessageError naming ``field``."""
        buffer = self._claim(wire.frame, field) if wire.data is UNSET else wire.data
        if wire.data is not UNSET and wire.frame is not UNSET:
            raise MessageError(f"{field} must have data or frame, not both")
        dtype, shape = DTYPES[wire.dtype], wire.shape
        expected = prod(shape) * dtype.itemsize
        if expected != len(buffer):
            raise MessageError(
                f"{field} of {wire.dtype} and shape {shape} must have {expected} bytes, not {len(buffer)}"
            )
        try:
            array: Array = np.ndarray(shape, dtype, buffer)
        except ValueError as error:
            raise MessageError(f"{field}: {error}") from None
        return array

    def _claim(self, frame: int | UnsetType, field: str) -> Buffer:
        if frame is UNSET:
            raise MessageError(f"{field} must have data or frame")
        if frame >= len(self._frames):
            raise MessageError(f"{field} is in array frame {frame}, but {len(self._frames)} came")
        if self._claimed >> frame & 1:
            raise MessageError(f"{field} is in array frame {frame}, which another array has")
        self._claimed |= 1 << frame
        return self._frames[frame]

    def finish(self) -> None:
        """Refuse a message with array frames that no array claimed."""
        if self._claimed != (1 << len(self._frames)) - 1:
            raise MessageError(f"{len(self._frames)} array frames came, {self._claimed.bit_count()} are used")


Restore = Callable[[Any, ArrayFrames], Any]


class Form(NamedTuple):
    """A struct type, its wire form, and what differs between the two."""

    kind: type[msgspec.Struct]
    wire: type[msgspec.Struct]
    arrays: tuple[tuple[str, str], ...]  # field, and how errors call it
    structs: tuple[tuple[str, Restore], ...]  # field, and how it is restored

    def restore(self, wire: msgspec.Struct, frames: ArrayFrames) -> Any:
        """The struct of ``kind`` with the fields of ``wire``; its own checks run as it is built."""
        fields = msgspec.structs.asdict(wire)
        for field, label in self.arrays:
            array = fields[field]
            if array is not None:
                fields[field] = frames.array(array, label)
        for field, restore in self.structs:
            fields[field] = restore(fields[field], frames)
        return self.kind(**fields)


def form_of(kind: type[msgspec.Struct]) -> Form:
    """The wire form of ``kind``; TypeError if one of its fields has a type that has none."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    arrays: list[tuple[str, str]] = []
    structs: list[tuple[str, Restore]] = []
    for field in msgspec.structs.fields(kind):
        label = f"{kind.__name__}.{field.name}"
        wire, restore = _wire_of(field.type, label)
        has_default = field.default is not msgspec.NODEFAULT
        fields.append((field.name, wire, field.default) if has_default else (field.name, wire))
        if wire in (WireArray, WireArray | None):
            arrays.append((field.name, label))
        elif restore is not None:
            structs.append((field.name, restore))
    wire_struct = msgspec.defstruct(kind.__name__, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)
    return Form(kind, wire_struct, tuple(arrays), tuple(structs))


def _wire_of(hint: Any, name: str) -> tuple[Any, Restore | None]:
    """The bounded type of a field, and how to restore structs from it."""
    if hint is int:
        return Int, None
    if hint is str:
        return Text, None
    if hint in (bool, float):
        return hint, None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (np.ndarray, npt.NDArray):  # numpy 2.5 made NDArray an alias that keeps its own name
        return WireArray, None
    if origin in (typing.Union, types.UnionType) and len(arguments) == 2 and arguments[1] is type(None):
        wire, restore = _wire_of(arguments[0], name)
        return wire | None, restore and _optional(restore)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        wire, restore = _wire_of(arguments[0], name)
        many = types.GenericAlias(tuple, (wire, ...))
        return Annotated[many, Meta(max_length=MAX_ITEMS)], restore and _each(restore)
    if origin is dict and arguments == (str, float):
        return Annotated[dict[Name, float], Meta(max_length=MAX_ITEMS)], None
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, str)):  # an enumeration of strings
        return hint, None
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        form = form_of(hint)
        return form.wire, form.restore
    raise TypeError(f"{name}: no wire form for {hint}")


def _optional(restore: Restore) -> Restore:
    return lambda wire, frames: None if wire is None else restore(wire, frames)


def _each(restore: Restore) -> Restore:
    return lambda wires, frames: tuple([restore(wire, frames) for wire in wires])
