"""What both ends of the link to a planner on another machine share.

A host reads and publishes through an end as through the bus. What comes is checked as on the bus; what is sent is
newest-wins in both directions (see :mod:`~syvla.transport.conversation`).
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import zmq

from syvla import clock
from syvla.errors import MessageError
from syvla.message import Message
from syvla.protocols import Header, Received
from syvla.transport.addresses import check_address
from syvla.transport.codec import decode_body, decode_header, encode
from syvla.transport.conversation import NOTE_PERIOD_NS, Conversation, Packet
from syvla.transport.credit import MAX_MESSAGE_FRAME, Socket
from syvla.transport.curve import OVERHEAD
from syvla.transport.outlet import ZERO_COPY_BYTES
from syvla.transport.wire import Buffer

UP = ("task", "sim/truth", "observation", "observation/jpeg")  # in this order: what is asked before what is seen
DOWN = ("thought", "intent")
SILENT_NS = 1_000_000_000  # ten notes
MESSAGES_PER_DRAIN = 64
HIGH_WATER = 64  # never reached by ends that keep to one message of a topic


def _configure(socket: Socket, address: str) -> None:
    """Bounded, never waiting, and noticing a peer that is gone without a word.

    Heartbeats are slower than on one machine: a stall of a wireless link is not a death, and the arms are held by the
    intent's age, not by these. They are fast enough to find the connection dead soon after that. A connection attempt
    ends after a second: the kernel's own would wait longer and longer while a cable is out.
    """
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, HIGH_WATER),
        (zmq.RCVHWM, HIGH_WATER),
        (zmq.MAXMSGSIZE, MAX_MESSAGE_FRAME + OVERHEAD),
        (zmq.RECONNECT_IVL, 50),
        (zmq.RECONNECT_IVL_MAX, 500),
        (zmq.CONNECT_TIMEOUT, 1000),
        (zmq.HANDSHAKE_IVL, 2000),
        (zmq.HEARTBEAT_IVL, 500),
        (zmq.HEARTBEAT_TIMEOUT, 2000),
        (zmq.IPV6, int("[" in address)),
    ):
        socket.setsockopt(option, value)


class LinkEnd(ABC):
    """What both ends share: the newest of each topic that is sent, and the checks of what comes."""

    poll_ns = NOTE_PERIOD_NS
    dropped = 0  # nothing here promises every message
    SENDS: ClassVar[tuple[str, ...]]

    def __init__(self, kind: int, address: str, epoch: int, encrypted: bool) -> None:
        check_address(address, encrypted)
        self.epoch = epoch
        self.received = 0
        self.refused = 0
        self.passed_over = 0
        self.last_refusal = ""
        self._newest: dict[str, Packet] = {}
        self._next: dict[str, int] = {}
        self._next_note_ns = 0
        self._context: zmq.Context[Socket] = zmq.Context()  # of its own: a doorkeeper serves a whole context
        self._socket: Socket = self._context.socket(kind)
        _configure(self._socket, address)
        self.sockets: tuple[Socket, ...] = (self._socket,)

    def publish(self, topic: str, message: Message, sent_ns: int, step_ns: int) -> None:
        """Make ``message`` the newest of ``topic``; MessageError if it is too large. Other topics do not cross."""
        if topic not in self.SENDS:
            return
        sequence = self._next.get(topic, 0)
        frames = encode(Header(topic, self.epoch, sequence, sent_ns, step_ns), message)
        self._next[topic] = sequence + 1
        self._newest[topic] = Packet(sequence, frames)
        self._flush()

    def relay(self, received: Received) -> None:
        """Nothing is passed on across a link."""
        raise MessageError(f"{received.header.topic}: cannot be relayed across a link")

    def poll(self) -> None:
        """Send what there is room for, and a note when one is due or owed."""
        self._flush()
        self._say(clock.monotonic_ns())

    def close(self) -> None:
        """Leave; may be called again."""
        self._context.destroy(0)

    @abstractmethod
    def _flush(self) -> None:
        """Send what there is room for."""

    @abstractmethod
    def _say(self, now_ns: int) -> None:
        """Send a note when one is due or owed."""

    def _send_newest(self, conversation: Conversation, prefix: list[Buffer]) -> None:
        """Send of each topic what the other end has room for. zmq.Again where the pipe is full or gone."""
        for topic in self.SENDS:
            packet = self._newest.get(topic)
            if packet is not None and conversation.has_room(topic, packet.sequence):
                self._send([*prefix, *packet.frames])
                conversation.sent(topic, packet.sequence)

    def _send(self, frames: list[Buffer]) -> None:
        *first, last = frames
        for frame in first:  # the first is refused or none is: a message is never split
            self._socket.send(frame, zmq.SNDMORE | zmq.NOBLOCK, copy=len(frame) < ZERO_COPY_BYTES)
        self._socket.send(last, zmq.NOBLOCK, copy=len(last) < ZERO_COPY_BYTES)

    def _take(
        self, conversation: Conversation, first: Buffer, rest: list[Buffer], excess: bool
    ) -> tuple[Header, Message] | None:
        """The message in the frames, None if it is not a new one."""
        header, arrays = decode_header(first)
        if not conversation.take(header):
            self.passed_over += 1
            return None
        if excess or len(rest) != 1 + arrays:
            raise MessageError(f"{header.topic}: must have {arrays} array frames, as its header says")
        message = decode_body(header.topic, rest)
        self.received += 1
        return header, message

    def _refuse(self, text: str) -> None:
        self.refused += 1
        self.last_refusal = text
