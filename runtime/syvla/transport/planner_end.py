"""The planner's end of a link: binds one port and serves one robot at a time.

A second robot is told so, and gets the seat when the first is gone or silent.
"""

import functools
import logging

import zmq

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
from syvla.transport.credit import has_input
from syvla.transport.curve import Doorkeeper, serve_curve
from syvla.transport.inlet import receive_rest
from syvla.transport.keys import PlannerKeys
from syvla.transport.link_end import DOWN, MESSAGES_PER_DRAIN, SILENT_NS, UP, LinkEnd

_log = logging.getLogger(__name__)


class PlannerEnd(LinkEnd):
    """The planner's end: binds ``address``.

    Args:
        address: tcp, or ipc in a directory of our own; off loopback only with keys.
        epoch: Of this process.
        keys: Its own pair and the robots that may connect; None: not encrypted.

    Attributes:
        address: Where it listens, with the port that the system chose.
    """

    SENDS = DOWN

    def __init__(self, address: str, epoch: int, keys: PlannerKeys | None = None) -> None:
        super().__init__(zmq.ROUTER, address, epoch, keys is not None)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a robot that is gone is an error, not a silent loss
        self._identity = b""
        self._conversation: Conversation | None = None
        self._conversations = 0
        self._waiting: dict[bytes, Note] = {}  # robots that want the seat, and what they said
        self._heard_ns = 0
        self._doorkeeper: Doorkeeper | None = None
        try:
            if keys is not None:
                self._doorkeeper = Doorkeeper(self._context, keys.allowed)
                self.sockets = (self._socket, self._doorkeeper.socket)
                serve_curve(self._socket, keys)
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(f"{address}: {error}") from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def connected(self) -> bool:
        """Whether a robot is served."""
        return self._conversation is not None

    def drain(self) -> list[Received]:
        """What has come since the last call, checked."""
        now_ns = clock.monotonic_ns()
        accepted: list[Received] = []
        for _ in range(MESSAGES_PER_DRAIN):
            if not has_input(self._socket):
                break
            identity = self._socket.recv(zmq.NOBLOCK)
            frames, excess = receive_rest(self._socket)
            try:
                if len(frames) == 1:
                    self._hear(identity, decode_note(frames[0]), now_ns)
                elif len(frames) > 1 and self._conversation is not None and identity == self._identity:
                    taken = self._take(self._conversation, frames[0], frames[1:], excess)
                    if taken is not None:
                        accepted.append(Received(*taken, now_ns, functools.partial(tuple, frames[1:])))
                else:
                    self.passed_over += 1
            except MessageError as error:
                self._refuse(str(error))
        self._answer_waiting(now_ns)
        self._say(now_ns)
        return accepted

    def poll(self) -> None:
        """Let robots in, send what there is room for, and a note when one is due or owed."""
        if self._doorkeeper is not None:
            self._doorkeeper.poll()
        super().poll()

    def _hear(self, identity: bytes, note: Note, now_ns: int) -> None:
        conversation = self._conversation
        if conversation is None:
            self._seat(identity, note, now_ns)
        elif identity != self._identity:
            self._waiting[identity] = note
        else:
            self._heard_ns = now_ns
            if note.number == conversation.number:
                conversation.hear(note)
            else:
                conversation.owed = True

    def _seat(self, identity: bytes, note: Note, now_ns: int) -> None:
        self._conversations += 1
        self._identity, self._heard_ns = identity, now_ns
        self._newest.clear()  # it was for somebody else
        self._conversation = Conversation(self._conversations, note.epoch, UP)
        _log.warning("robot connected (conversation %d)", self._conversations)

    def _answer_waiting(self, now_ns: int) -> None:
        """Give the seat to a robot that waits, or tell it that it is taken.

        Only once everything was read that had come: when it was this process that stood still, the robot in the seat
        is not to blame.
        """
        for identity, note in self._waiting.items():
            if self._conversation is not None and now_ns - self._heard_ns > SILENT_NS:
                self._leave("is silent")
            if self._conversation is None:
                self._seat(identity, note, now_ns)
            else:
                self._tell(identity, encode_note(self.epoch, NO_SEAT))
        self._waiting.clear()

    def _leave(self, why: str) -> None:
        if self._conversation is not None:
            _log.warning("robot %s (conversation %d)", why, self._conversation.number)
        self._conversation = None

    def _flush(self) -> None:
        if self._conversation is None:
            return
        try:
            self._send_newest(self._conversation, [self._identity])
        except zmq.Again:
            return
        except zmq.ZMQError as error:
            self._check_gone(error, self._identity)

    def _say(self, now_ns: int) -> None:
        conversation = self._conversation
        if conversation is None or not (conversation.owed or now_ns >= self._next_note_ns):
            return
        self._next_note_ns = now_ns + NOTE_PERIOD_NS
        conversation.owed = not self._tell(
            self._identity, encode_note(self.epoch, conversation.number, conversation.taken)
        )

    def _tell(self, identity: bytes, note: bytes) -> bool:
        try:
            self._send([identity, note])
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            self._check_gone(error, identity)
        return True

    def _check_gone(self, error: zmq.ZMQError, identity: bytes) -> None:
        if error.errno != zmq.EHOSTUNREACH:
            raise error
        if identity == self._identity:
            self._leave("disconnected")
