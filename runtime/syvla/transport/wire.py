"""The wire form of a message type: the same fields, but bounded, so that decoding builds nothing that it need not.

A message type names arrays, and a decoder would have to build whatever a hostile sender put in their place
before it could judge it. The wire form has a small struct there instead, and a bound on every number, text,
list and map, so that the first wrong byte ends the decoding.
"""

import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from syvla.errors import MessageError
from syvla.messages import MAX_ITEMS, MAX_NAME, MAX_TEXT, Array

MAX_BODY = 256 * 1024
MAX_FRAME = 2 * 1024 * 1024
MAX_ARRAY_FRAMES = 64
MAX_INLINE = 4096  # bytes of an array inside the body; a longer one has a frame of its own
MAX_DIMENSIONS = 4

Buffer: TypeAlias = bytes | memoryview
Dtype = Literal["|u1", "<u2", "<f2", "<f4", "<f8"]
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
        data, frame = wire.data, wire.frame
        if frame is UNSET:
            if data is UNSET:
                raise MessageError(f"{field} must have data or frame")
            buffer: Buffer = data
            size = len(data)
        elif data is not UNSET:
            raise MessageError(f"{field} must have data or frame, not both")
        else:
            if frame >= len(self._frames):
                raise MessageError(f"{field} is in array frame {frame}, but {len(self._frames)} came")
            if self._claimed >> frame & 1:
                raise MessageError(f"{field} is in array frame {frame}, which another array has")
            self._claimed |= 1 << frame
            buffer = self._frames[frame]
            size = buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
        dtype, shape = DTYPES[wire.dtype], wire.shape
        expected = dtype.itemsize
        for length in shape:
            expected *= length
        if expected != size:
            raise MessageError(f"{field} of {wire.dtype} and shape {shape} must have {expected} bytes, not {size}")
        try:
            array: Array = np.ndarray(shape, dtype, buffer)
        except ValueError as error:
            raise MessageError(f"{field}: {error}") from None
        return array

    def finish(self) -> None:
        """Refuse a message with array frames that no array claimed."""
        if self._claimed != (1 << len(self._frames)) - 1:
            raise MessageError(f"{len(self._frames)} array frames came, {self._claimed.bit_count()} are used")


Restore = Callable[[Any, ArrayFrames], Any]


class Form(NamedTuple):
    """A struct type, its wire form, and how to restore those fields that differ between the two."""

    kind: type[msgspec.Struct]
    wire: type[msgspec.Struct]
    restores: tuple[tuple[str, Restore], ...]

    def restore(self, wire: msgspec.Struct, frames: ArrayFrames) -> Any:
        """The struct of ``kind`` with the fields of ``wire``; its own checks run as it is built."""
        fields = msgspec.structs.asdict(wire)
        for name, restore in self.restores:
            fields[name] = restore(fields[name], frames)
        return self.kind(**fields)


def form_of(kind: type[msgspec.Struct]) -> Form:
    """The wire form of ``kind``; TypeError if one of its fields has a type that has none."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    restores: list[tuple[str, Restore]] = []
    for field in msgspec.structs.fields(kind):
        wire, restore = _wire_of(field.type, f"{kind.__name__}.{field.name}")
        has_default = field.default is not msgspec.NODEFAULT
        fields.append((field.name, wire, field.default) if has_default else (field.name, wire))
        if restore is not None:
            restores.append((field.name, restore))
    wire_struct = msgspec.defstruct(kind.__name__, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)
    return Form(kind, wire_struct, tuple(restores))


def _wire_of(hint: Any, name: str) -> tuple[Any, Restore | None]:
    """The bounded type of a field, and how to restore the field from it (None: as it is)."""
    if hint is int:
        return Int, None
    if hint is str:
        return Text, None
    if hint in (bool, float):
        return hint, None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is np.ndarray:
        return WireArray, lambda wire, frames: frames.array(wire, name)
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
