"""What a stage remembers from one step to the next, as bytes: taken once a second, put back to run the stage again.

A class says in ``remembered`` which of its attributes are state, all others being configuration; an attribute may
hold plain data, arrays, wire messages and objects of classes that say so too. Two names of one object stay two names
of one object. Nothing is built from bytes but plain data, messages, which check themselves, and :data:`_BUILT`.
"""

import enum
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import numpy as np

from syvla.control.timeline import Layer
from syvla.errors import RecordingError, SyvlaError
from syvla.message import Message
from syvla.messages import Mode, Source
from syvla.topics import TOPICS
from syvla.transport.codec import decode_body, encode_body
from syvla.transport.wire import DTYPES

_ENUMS: dict[str, type[enum.Enum]] = {kind.__name__: kind for kind in (Mode, Source)}
_MESSAGES: dict[str, type[Message]] = {row.type.__name__: row.type for row in TOPICS.values()}
_BUILT: dict[str, type] = {kind.__name__: kind for kind in (Layer,)}  # those that stand in a list
_UNFIT = (
    msgspec.MsgspecError,
    SyvlaError,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
_PLAIN = (bool, int, float, str)
_MANY: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "deque": deque}


def capture(stage: object) -> bytes:
    """What ``stage`` remembers; TypeError if a remembered attribute holds what cannot be taken."""
    return _Capture().run(stage)


def restore(stage: object, data: bytes | memoryview, anew: Collection[str] = ()) -> None:
    """Let ``stage``, built from a configuration, remember what another one did; RecordingError if it cannot be.

    Its attributes ``anew`` stay as they were built.
    """
    try:
        objects = msgspec.msgpack.decode(data)
        if not isinstance(objects, list):
            raise TypeError("it is not a list of objects")
        _Restore(objects, anew).into(stage, 0)
    except _UNFIT as error:
        raise RecordingError(f"a stage's memory cannot be restored: {error}") from error


class _Capture:
    """One walk. ``objects`` are those that may have several names; a reference is a place in it."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self._places: dict[int, int] = {}

    def run(self, root: object) -> bytes:
        self._object(root)
        return msgspec.msgpack.encode(self.objects)

    def _object(self, value: object) -> Any:
        place = self._places.get(id(value))
        if place is None:
            place = self._places[id(value)] = len(self.objects)
            self.objects.append(None)
            if isinstance(value, Message):
                self.objects[place] = [type(value).__name__, [bytes(frame) for frame in encode_body(value)]]
            else:
                names: tuple[str, ...] = value.remembered  # type: ignore[attr-defined]  # one that says so
                fields = {name: self._value(getattr(value, name), name) for name in names}
                self.objects[place] = [type(value).__name__, fields]
        return ["object", place]

    def _value(self, value: object, name: str) -> Any:
        if isinstance(value, enum.Enum):
            return ["enum", type(value).__name__, value.value]
        if value is None or type(value) in _PLAIN:
            return value
        if isinstance(value, Message) or hasattr(value, "remembered"):
            return self._object(value)
        if isinstance(value, np.ndarray):
            return ["array", value.dtype.str, list(value.shape), value.tobytes()]
        if type(value) is dict:
            return ["dict", [[self._value(k, name), self._value(v, name)] for k, v in value.items()]]
        if isinstance(value, set):
            return ["set", [self._value(each, name) for each in sorted(value)]]
        if isinstance(value, (list, tuple, deque)):  # of a named tuple the values: its owner gives the names back
            kind = next(kind for kind in (list, tuple, deque) if isinstance(value, kind))
            return [kind.__name__, [self._value(each, name) for each in value]]
        raise TypeError(f"{name} holds a {type(value).__name__}, which cannot be remembered")


class _Restore:
    """The way back."""

    def __init__(self, objects: list[Any], anew: Collection[str]) -> None:
        self._objects = objects
        self._anew = anew
        self._made: dict[int, object] = {}

    def into(self, target: object, place: int) -> object:
        """Fill ``target`` from the object at ``place``."""
        kind, fields = self._objects[place]
        if place in self._made:
            return self._made[place]
        names = [name for name in getattr(target, "remembered", ()) if name not in self._anew]
        if kind != type(target).__name__ or set(fields) - set(self._anew) != set(names):
            raise ValueError(f"{kind} with {', '.join(fields)} is not {type(target).__name__} with {', '.join(names)}")
        self._made[place] = target
        for name in names:
            old = getattr(target, name, None)
            setattr(target, name, self._value(fields[name], old, f"{kind}.{name}"))
        recalled = getattr(target, "recalled", None)
        if recalled is not None:
            recalled()
        return target

    def _value(self, value: Any, old: object, name: str) -> Any:
        new = self._of(value, old, name)
        # a named tuple's names are given back by its owner
        kinds = (int, float) if isinstance(old, float) else tuple if isinstance(old, tuple) else type(old)
        if old is not None and new is not None and not isinstance(new, kinds):
            raise TypeError(f"{name} must be {type(old).__name__}, not {type(new).__name__}")
        return new

    def _of(self, value: Any, old: object, name: str) -> Any:
        if value is None or type(value) in _PLAIN:
            return value
        tag, *rest = value
        if tag == "object":
            return self._referred(rest[0], old)
        if tag == "enum":
            return _ENUMS[rest[0]](rest[1])
        if tag == "array":
            return np.frombuffer(rest[2], DTYPES[rest[0]]).reshape(rest[1]).copy()
        if tag == "dict":
            return {self._of(k, None, name): self._of(v, None, name) for k, v in rest[0]}
        items = [self._of(each, None, name) for each in rest[0]]
        if tag == "deque" and isinstance(old, deque):
            return deque(items, old.maxlen)
        return _MANY[tag](items)

    def _referred(self, place: int, old: object) -> object:
        kind, content = self._objects[place]
        if place in self._made:
            return self._made[place]
        if kind in _MESSAGES:
            message = decode_body(_MESSAGES[kind], [memoryview(frame) for frame in content])
            self._made[place] = message
            return message
        if kind in _BUILT:
            return self.into(object.__new__(_BUILT[kind]), place)
        if old is None:
            raise ValueError(f"there is no {kind} to restore")
        return self.into(old, place)
