"""The robot's end of a link: connects to the planner, and again whenever it was lost. It binds nothing."""

import functools
import logging

import zmq
from zmq.utils.monitor import recv_monitor_message

from syvla import clock
from syvla.errors import MessageError, TransportError
from syvla.protocols import Received
from syvla.transport.conversation import (
    NO_SEAT,
    NOTE_PERIOD_NS,
    Conversation,
    Note,
    decode_note,
    encode_note,
)
from syvla.transport.credit import Socket, has_input
from syvla.transport.curve import use_curve
from syvla.transport.inlet import receive_rest
from syvla.transport.keys import RobotKeys
from syvla.transport.link_end import DOWN, MESSAGES_PER_DRAIN, SILENT_NS, UP, LinkEnd

LASTING = ("task",)  # what a new conversation begins with; anything else is old by then
RETRY_NS = 3_000_000_000  # libzmq does not try again where it was refused; more than a handshake takes anywhere
_log = logging.getLogger(__name__)
_TROUBLE: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it refuses this robot's key",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the handshake failed: one end is not encrypted, or is no planner",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed: the planner's key may be another one",
}
_WATCHED = sum(_TROUBLE) | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED


class RobotEnd(LinkEnd):
    """The robot's end: connects to the planner at ``address``, and again whenever it was lost.

    What it receives is in the robot's own terms: a header's ``sent_ns`` is when the message came, since another
    machine's clock says nothing here, and its ``epoch`` is when this conversation with the planner began, so that one
    whose machine was started anew is later than the one before. Sequence and step duration are the sender's.

    Args:
        address: Where the planner listens; off loopback only with keys.
        epoch: Of this process.
        keys: Its own pair and the planner's public key; None: not encrypted.

    Attributes:
        trouble: Why there is no connection, in words; "" while there is one.
    """

    SENDS = UP

    def __init__(self, address: str, epoch: int, keys: RobotKeys | None = None) -> None:
        super().__init__(zmq.DEALER, address, epoch, keys is not None)
        self.address = address
        self.trouble = "not connected yet"
        self._conversation: Conversation | None = None
        self._failed = False  # whether the newest attempt came as far as a handshake
        self._heard_ns = self._tried_ns = clock.monotonic_ns()
        self._session_ns = epoch
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing waits for a connection that is not there
        try:
            if keys is not None:
                use_curve(self._socket, keys)
            self._monitor: Socket = self._socket.get_monitor_socket(_WATCHED)
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(f"{address}: {error}") from error

    @property
    def connected(self) -> bool:
        """Whether the planner serves this robot."""
        return self.trouble == ""

    def drain(self) -> list[Received]:
        """What has come since the last call, checked."""
        now_ns = clock.monotonic_ns()
        accepted: list[Received] = []
        for _ in range(MESSAGES_PER_DRAIN):
            if not has_input(self._socket):
                break
            first = self._socket.recv(zmq.NOBLOCK)
            rest, excess = receive_rest(self._socket)
            try:
                if not rest:
                    self._hear(decode_note(first), now_ns)
                elif self._conversation is not None:
                    taken = self._take(self._conversation, first, rest, excess)
                    if taken is not None:
                        header = taken[0]._replace(epoch=self._session_ns, sent_ns=now_ns)
                        accepted.append(Received(header, taken[1], now_ns, functools.partial(tuple, rest)))
                else:
                    self.passed_over += 1
            except MessageError as error:
                self._refuse(str(error))
        self._watch(now_ns)
        self._say(now_ns)
        self._flush()
        return accepted

    def _hear(self, note: Note, now_ns: int) -> None:
        self._tried_ns = now_ns  # it is there, even if it has no time for us
        if note.number == NO_SEAT:
            self._conversation = None
            self._tell("it serves another robot")
            return
        known = self._conversation
        if known is None or (note.epoch, note.number) != (known.epoch, known.number):
            self._session_ns = max(now_ns, self._session_ns + 1)
            known = self._conversation = Conversation(note.number, note.epoch, DOWN)
            self._newest = {topic: self._newest[topic] for topic in LASTING if topic in self._newest}
        self._heard_ns = now_ns
        self._tell("")
        known.hear(note)

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            _log.warning("planner at %s: %s", self.address, trouble or "connected")
        self.trouble = trouble

    def _watch(self, now_ns: int) -> None:
        """Notice that the planner is gone, say why, and try again where libzmq does not."""
        while has_input(self._monitor):
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            if event in _TROUBLE:
                self._failed = True
                self._tell(_TROUBLE[event])
            elif event == zmq.EVENT_CONNECT_RETRIED:
                if not self._failed:
                    self._tell("nobody answers")
                self._failed = False
            elif self.connected:
                self._tell("disconnected")
        if self.connected and now_ns - self._heard_ns > SILENT_NS:
            self._tell("silent")
        if not self.connected and now_ns - self._tried_ns > RETRY_NS:
            self._tried_ns = now_ns
            self._socket.disconnect(self.address)
            self._socket.connect(self.address)

    def _flush(self) -> None:
        if self._conversation is None:
            return
        try:
            self._send_newest(self._conversation, [])
        except zmq.Again:
            return

    def _say(self, now_ns: int) -> None:
        conversation = self._conversation
        owed = conversation is not None and conversation.owed
        if not owed and now_ns < self._next_note_ns:
            return
        number, taken = (NO_SEAT, {}) if conversation is None else (conversation.number, conversation.taken)
        try:
            self._send([encode_note(self.epoch, number, taken)])
        except zmq.Again:
            return
        self._next_note_ns = now_ns + NOTE_PERIOD_NS
        if conversation is not None:
            conversation.owed = False
