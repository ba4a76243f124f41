"""Messages to and from bytes: plain msgpack, large arrays beside it uncopied, everything hostile until checked.

On the wire a message is ``[header, body, array frame, ...]``. The header is a msgpack array (version, topic,
epoch, sequence, sent_ns, step_ns, number of array frames), the body a msgpack map of the struct's fields. An
array is a map in the body: ``{"dtype": "<f8", "shape": [6], "data": bytes}`` when it has at most 4 kB, else
``{"dtype": ..., "shape": ..., "frame": k}`` and its bytes are array frame k. The topic table gives the type of
the body, never the message itself.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import msgspec
import numpy as np
from msgspec import Meta

from syvla.errors import MessageError
from syvla.message import Message
from syvla.messages import CompressedFrame
from syvla.protocols import Header
from syvla.topics import TOPICS
from syvla.transport.wire import (
    DTYPES,
    MAX_ARRAY_FRAMES,
    MAX_BODY,
    MAX_FRAME,
    MAX_INLINE,
    ArrayFrames,
    Buffer,
    Count,
    Form,
    Int,
    Name,
    WireArray,
    form_of,
)

VERSION = 1
MAX_HEADER = 256
MAX_ERROR = 300  # characters of a decoder's error that are passed on

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _WireHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Literal[1]
    topic: Name
    epoch: Count
    sequence: Count
    sent_ns: Int
    step_ns: Int
    arrays: Annotated[int, Meta(ge=0, le=MAX_ARRAY_FRAMES)]


class _Plan(NamedTuple):
    form: Form
    decoder: msgspec.msgpack.Decoder[Any]


def _plan(kind: type[Message]) -> _Plan:
    form = form_of(kind)
    return _Plan(form, msgspec.msgpack.Decoder(form.wire))


# what crosses the bus, and what stands in its place in a recording
_KINDS: tuple[type[Message], ...] = (*(row.type for row in TOPICS.values()), CompressedFrame)
_PLANS: dict[type[Message], _Plan] = {kind: _plan(kind) for kind in dict.fromkeys(_KINDS)}
_TOPIC_PLANS = {row.name: _PLANS[row.type] for row in TOPICS.values()}
_HEADER_DECODER = msgspec.msgpack.Decoder(_WireHeader)
_HEADER_ENCODER = msgspec.msgpack.Encoder()


def encode(header: Header, message: Message) -> list[Buffer]:
    """The frames of ``message``: header, body, array frames.

    An array frame is a view of the message's own array, which therefore must not change any more.

    Raises:
        MessageError: the topic is unknown or has another type, or a limit of size is exceeded.
    """
    _expect_type(header.topic, type(message))
    frames = encode_body(message)
    return [encode_header(header, len(frames) - 1), *frames]


def encode_header(header: Header, arrays: int) -> bytes:
    """The first frame of a message with so many array frames."""
    envelope = (VERSION, header.topic, header.epoch, header.sequence, header.sent_ns, header.step_ns, arrays)
    return _HEADER_ENCODER.encode(envelope)


def encode_body(message: Message) -> list[Buffer]:
    """The frames of ``message`` without the header: body, array frames. MessageError if it is too large."""
    arrays: list[Buffer] = []

    def hook(value: object) -> object:
        if isinstance(value, np.ndarray):
            name = _DTYPE_NAMES.get(value.dtype)
            if name is None:
                raise MessageError(f"an array of {value.dtype} cannot be sent; there are {', '.join(DTYPES)}")
            if value.nbytes <= MAX_INLINE:
                return WireArray(name, value.shape, value.tobytes())  # type: ignore[arg-type]  # the table's keys
            if value.nbytes > MAX_FRAME:
                raise MessageError(f"an array of {value.nbytes} bytes cannot be sent; at most {MAX_FRAME}")
            arrays.append(value.data.cast("B"))
            return WireArray(name, value.shape, frame=len(arrays) - 1)  # type: ignore[arg-type]
        if isinstance(value, np.generic):  # a number that came out of an array
            return value.item()
        raise MessageError(f"a value of type {type(value).__name__} cannot be sent")

    try:
        body = msgspec.msgpack.Encoder(enc_hook=hook).encode(message)
    except (MessageError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MessageError(f"{type(message).__name__}: {error}") from None
    if len(body) > MAX_BODY or len(arrays) > MAX_ARRAY_FRAMES:
        raise MessageError(
            f"{type(message).__name__} has {len(body)} bytes and {len(arrays)} array frames; "
            f"at most {MAX_BODY} and {MAX_ARRAY_FRAMES}"
        )
    return [body, *arrays]


def decode(frames: Sequence[Buffer]) -> tuple[Header, Message]:
    """The header and the message in ``frames``; its arrays are read-only views of them.

    Raises:
        MessageError: whatever is wrong with the frames; the text names the topic and the field.
    """
    if len(frames) < 2:
        raise MessageError(f"a message has a header and a body, not {len(frames)} frames")
    header, arrays = decode_header(frames[0])
    if len(frames) - 2 != arrays:
        raise MessageError(f"{header.topic}: the header says {arrays} array frames, but {len(frames) - 2} came")
    return header, decode_body(header.topic, frames[1:])


def decode_header(frame: Buffer) -> tuple[Header, int]:
    """The header in ``frame`` and the number of array frames that follow the body."""
    if len(frame) > MAX_HEADER:
        raise MessageError(f"header: must have at most {MAX_HEADER} bytes, not {len(frame)}")
    try:
        wire = _HEADER_DECODER.decode(frame)
    except _DECODE_ERRORS as error:
        _refuse("header", error, _WireHeader.__struct_fields__)
    if wire.topic not in TOPICS:
        raise MessageError(f"header: no topic {wire.topic!r}")
    return Header(wire.topic, wire.epoch, wire.sequence, wire.sent_ns, wire.step_ns), wire.arrays


def decode_body(topic_or_type: str | type[Message], frames: Sequence[Buffer]) -> Message:
    """The message in ``frames`` (body, array frames; a memoryview is one of bytes) of a topic or of a type.

    Raises:
        MessageError: whatever is wrong with the frames; the text names the topic or type and the field.
    """
    if isinstance(topic_or_type, str):
        where, plan = topic_or_type, _TOPIC_PLANS.get(topic_or_type)
        if plan is None:
            raise MessageError(f"no topic {where!r}")
    else:
        where, plan = topic_or_type.__name__, _PLANS.get(topic_or_type)
        if plan is None:
            raise MessageError(f"{where} is the type of no topic")
    _check_sizes(where, frames)
    try:
        wire = plan.decoder.decode(frames[0])
        arrays = ArrayFrames(frames[1:])
        message: Message = plan.form.restore(wire, arrays)
        arrays.finish()
    except MessageError as error:
        raise MessageError(f"{where}: {error}") from None
    except _DECODE_ERRORS as error:
        _refuse(where, error)
    return message


def pack_record(frames: Sequence[Buffer]) -> bytes:
    """The frames of a message (with or without its header) as msgpack ``bin`` objects, one after the other."""
    parts: list[Buffer] = []
    for frame in frames:
        size = memoryview(frame).nbytes
        width, code = (1, 0xC4) if size < 1 << 8 else (2, 0xC5) if size < 1 << 16 else (4, 0xC6)
        parts.append(bytes((code,)) + size.to_bytes(width, "big"))
        parts.append(frame)
    return b"".join(parts)


def unpack_record(record: Buffer) -> list[memoryview]:
    """The frames in a record made by :func:`pack_record`, as views; MessageError if it is not one."""
    view = memoryview(record).cast("B")
    frames: list[memoryview] = []
    at = 0
    while at < len(view):
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4}.get(view[at], 0)
        start = at + 1 + width
        end = start + int.from_bytes(view[at + 1 : start], "big")
        if width == 0 or start > len(view) or end > len(view):
            raise MessageError(f"record: byte {at} does not begin a whole msgpack bin object")
        if len(frames) > 1 + MAX_ARRAY_FRAMES:
            raise MessageError(f"record: more than {2 + MAX_ARRAY_FRAMES} frames")
        frames.append(view[start:end])
        at = end
    if not frames:
        raise MessageError("record: must hold a body")
    return frames


def _expect_type(topic: str, kind: type[Message]) -> None:
    row = TOPICS.get(topic)
    if row is None:
        raise MessageError(f"no topic {topic!r}; there are {', '.join(sorted(TOPICS))}")
    if kind is not row.type:
        raise MessageError(f"{topic}: must be a {row.type.__name__}, not {kind.__name__}")


def _check_sizes(where: str, frames: Sequence[Buffer]) -> None:
    if not 1 <= len(frames) <= 1 + MAX_ARRAY_FRAMES:
        raise MessageError(f"{where}: must have a body and at most {MAX_ARRAY_FRAMES} array frames")
    if len(frames[0]) > MAX_BODY:
        raise MessageError(f"{where}: the body must have at most {MAX_BODY} bytes, not {len(frames[0])}")
    for k, frame in enumerate(frames[1:]):
        if len(frame) > MAX_FRAME:
            raise MessageError(f"{where}: array frame {k} must have at most {MAX_FRAME} bytes, not {len(frame)}")


def _refuse(where: str, error: Exception, positions: Sequence[str] = ()) -> NoReturn:
    """Raise a decoder's error as ours: short, printable, and with names for the positions of an array."""
    text = re.sub(r"\$\[(\d)\]", lambda found: positions[int(found[1])], str(error)) if positions else str(error)
    if len(text) > MAX_ERROR:
        text = f"{text[:MAX_ERROR]}..."
    raise MessageError(f"{where}: {text if text.isprintable() else ascii(text)}") from None
