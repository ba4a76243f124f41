"""What two ends of a link have said to each other over one connection: the newest of each topic, one at a time.

Each end tells the other in a *note* what it has taken. Of a topic the next message leaves when the one before was
taken, and it is then the newest there is: nothing old waits behind a slow link, and at most one of each topic is on
its way. Notes are repeated ten times a second, so an end that falls silent is noticed.

The planner's end numbers its conversations; the robot's begins anew when it is told another number. All that is
known of the other end dies with its conversation, so neither needs a clock, a counter or a past in common with it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from syvla.errors import MessageError
from syvla.message import MAX_ITEMS
from syvla.protocols import Header
from syvla.transport.wire import Buffer, Count, Name

VERSION = 1
NOTE_PERIOD_NS = 100_000_000
MAX_NOTE = 8192
NO_SEAT = 0  # the number of no conversation: the robot has none, or the planner serves another robot


class Packet(NamedTuple):
    """One encoded message."""

    sequence: int
    frames: list[Buffer]


class Note(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one end says of itself: its epoch, the conversation it is in, and what it has taken in it."""

    version: Literal[1]
    epoch: Count
    number: Count
    taken: Annotated[tuple[tuple[Name, Count], ...], Meta(max_length=MAX_ITEMS)]


_DECODER = msgspec.msgpack.Decoder(Note)
_ENCODER = msgspec.msgpack.Encoder()


def encode_note(epoch: int, number: int = NO_SEAT, taken: Mapping[str, int] | None = None) -> bytes:
    """The frame of a note."""
    return _ENCODER.encode((VERSION, epoch, number, tuple((taken or {}).items())))


def decode_note(frame: Buffer) -> Note:
    """The note in ``frame``; MessageError if it is not one."""
    if len(frame) > MAX_NOTE:
        raise MessageError(f"note: must have at most {MAX_NOTE} bytes, not {len(frame)}")
    try:
        return _DECODER.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"note: {str(error)[:200]!r}") from None


class Conversation:
    """One connection, as one end sees it.

    Args:
        number: what the planner's end calls it.
        epoch: the other end's; only its messages count.
        hears: the topics that the other end may send.
    """

    __slots__ = ("_acknowledged", "_hears", "_sent", "epoch", "number", "owed", "taken")

    def __init__(self, number: int, epoch: int, hears: Sequence[str]) -> None:
        self.number = number
        self.epoch = epoch
        self.owed = True  # whether the other end does not know yet what was taken
        self.taken: dict[str, int] = {}
        self._hears = frozenset(hears)
        self._sent: dict[str, int] = {}
        self._acknowledged: dict[str, int] = {}

    def has_room(self, topic: str, sequence: int) -> bool:
        """Whether a message may be sent: it is new, and the one before was taken."""
        sent = self._sent.get(topic, -1)
        return sequence > sent == self._acknowledged.get(topic, -1)

    def sent(self, topic: str, sequence: int) -> None:
        """Note that a message is on its way."""
        self._sent[topic] = sequence

    def hear(self, note: Note) -> None:
        """Learn what was taken; MessageError if it was never sent."""
        for topic, sequence in note.taken:
            if sequence > self._sent.get(topic, -1):
                raise MessageError(f"note: {topic} {sequence} was never sent")
            self._acknowledged[topic] = max(sequence, self._acknowledged.get(topic, -1))

    def take(self, header: Header) -> bool:
        """Take a message in, whatever is in its body; False if it is of a past epoch or came before.

        Raises:
            MessageError: the other end may not send its topic.
        """
        topic = header.topic
        if topic not in self._hears:
            raise MessageError(f"{topic}: may not come this way; there are {', '.join(sorted(self._hears))}")
        if header.epoch != self.epoch or header.sequence <= self.taken.get(topic, -1):
            return False
        self.taken[topic] = header.sequence
        self.owed = True
        return True
