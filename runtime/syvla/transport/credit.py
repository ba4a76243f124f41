"""The credit protocol: what a subscriber tells its publisher, so that nothing is sent that it has no room for.

A grant says of each topic: *of epoch E, I have taken everything up to sequence S; at most W messages may be on
their way to me*. It states a fact instead of counting up, so a grant that is lost, repeated, or sent to a
publisher that has restarted in the meantime does no harm, and neither end needs to know that the other was gone:
the publisher forgets a connection that broke, the subscriber repeats its grants ten times a second.
"""

from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec
import zmq
from msgspec import Meta

from syvla.errors import MessageError, TransportError
from syvla.message import MAX_ITEMS
from syvla.messages import MAX_NAME
from syvla.topics import TOPICS
from syvla.transport.wire import MAX_BODY, MAX_FRAME

VERSION = 1
GRANT_PERIOD_NS = 100_000_000
MAX_WINDOW = 256
WINDOW_BYTES = 16 * 1024 * 1024  # on their way to one subscriber of one topic, whatever the window says
MAX_GRANT = 16 * 1024  # bytes
HIGH_WATER = 4 * MAX_WINDOW  # messages; never reached by a subscriber that keeps to its window

Socket: TypeAlias = "zmq.Socket[bytes]"
Mode = Literal["latest", "lossless"]
DEFAULT_WINDOW: dict[Mode, int] = {"latest": 16, "lossless": MAX_WINDOW}
_Position = Annotated[int, Meta(ge=-1, le=2**63 - 1)]


class Subscription(NamedTuple):
    """A topic wanted from the publisher at ``address``.

    ``latest``: the newest message, however slow the reader. ``lossless``: every message in order, as long as the
    publisher's queue holds. ``window`` is how many may be on their way; None is the mode's default.
    """

    topic: str
    address: str
    mode: Mode = "latest"
    window: int | None = None

    def checked_window(self) -> int:
        """The window as a number; TransportError if a field is not valid."""
        if self.topic not in TOPICS:
            raise TransportError(f"no topic {self.topic!r}; there are {', '.join(sorted(TOPICS))}")
        if self.mode not in DEFAULT_WINDOW:
            raise TransportError(f"{self.topic}: mode must be latest or lossless, not {self.mode!r}")
        window = DEFAULT_WINDOW[self.mode] if self.window is None else self.window
        if not 1 <= window <= MAX_WINDOW:
            raise TransportError(f"{self.topic}: window must be 1..{MAX_WINDOW}, not {window}")
        return window


class Grant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One topic in a grant. ``epoch`` and ``sequence`` are of the newest message that was taken, -1 for none."""

    topic: Annotated[str, Meta(max_length=MAX_NAME)]
    mode: Mode
    window: Annotated[int, Meta(ge=1, le=MAX_WINDOW)]
    epoch: _Position
    sequence: _Position


class _Grants(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Literal[1]
    grants: Annotated[tuple[Grant, ...], Meta(max_length=MAX_ITEMS)]


_DECODER = msgspec.msgpack.Decoder(_Grants)
_ENCODER = msgspec.msgpack.Encoder()


def encode_grants(grants: list[Grant]) -> bytes:
    """The frame that carries ``grants``."""
    return _ENCODER.encode((VERSION, grants))


def decode_grants(frame: bytes) -> tuple[Grant, ...]:
    """The grants in ``frame``; MessageError if it is not one of ours."""
    try:
        grants = _DECODER.decode(frame).grants
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"grant: {str(error)[:200]!r}") from None
    for grant in grants:
        if grant.topic not in TOPICS:
            raise MessageError(f"grant: no topic {grant.topic!r}")
    return grants


def has_input(socket: Socket) -> bool:
    """Whether a message lies ready; cheaper than an empty-handed receive."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


def configure(socket: Socket, max_frame: int) -> None:
    """The options that both ends have in common: bounded, and never waiting for anybody."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)


MAX_MESSAGE_FRAME = max(MAX_BODY, MAX_FRAME)
