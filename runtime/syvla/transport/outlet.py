"""The publishing end of the bus: one ROUTER socket for a process, and the newest message of each topic."""

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

import zmq

from syvla import clock
from syvla.errors import MessageError, TransportError
from syvla.message import Message
from syvla.protocols import Header, Received
from syvla.transport.addresses import check_address
from syvla.transport.codec import encode, encode_header
from syvla.transport.credit import MAX_GRANT, WINDOW_BYTES, Grant, Mode, Socket, configure, decode_grants, has_input
from syvla.transport.wire import Buffer

QUEUE_MESSAGES = 4096
QUEUE_BYTES = 64 * 1024 * 1024
MAX_PEERS = 64
PEER_EXPIRES_NS = 10_000_000_000  # without a grant; a living subscriber sends ten a second
PEER_QUIET_NS = 1_000_000_000  # without a grant, after which it must make room for a new one
GRANTS_PER_POLL = 256
ZERO_COPY_BYTES = 65_536  # below it libzmq's copy costs less than keeping account of the buffer


Position: TypeAlias = tuple[int, int]  # epoch, sequence
_NOTHING: Final = (-1, -1)


class _Packet:
    """One encoded message."""

    __slots__ = ("frames", "position", "size")

    def __init__(self, position: Position, frames: list[Buffer]) -> None:
        self.position = position
        self.frames = frames
        self.size = sum(map(len, frames))


class _Reader:
    """One subscriber of one topic: what is on its way to it and, if it wants every message, what waits."""

    __slots__ = ("flying", "flying_bytes", "mode", "queue", "queue_bytes", "sent", "window")

    def __init__(self, mode: Mode, window: int, sent: Position) -> None:
        self.mode = mode
        self.window = window
        self.sent = sent  # the newest that it has or that is on its way
        self.flying: deque[tuple[Position, int]] = deque()  # position, size
        self.flying_bytes = 0
        self.queue: deque[_Packet] = deque()
        self.queue_bytes = 0

    def acknowledge(self, position: Position) -> None:
        flying = self.flying
        while flying and flying[0][0] <= position:
            self.flying_bytes -= flying.popleft()[1]

    def has_room(self, size: int) -> bool:
        flying = len(self.flying)
        return flying == 0 or (flying < self.window and self.flying_bytes + size <= WINDOW_BYTES)


class _Topic:
    """One published topic."""

    __slots__ = ("next", "readers", "slot")

    def __init__(self, epoch: int) -> None:
        self.next: Position = (epoch, 0)
        self.slot: _Packet | None = None
        self.readers: dict[bytes, _Reader] = {}


class Outlet:
    """Publishes messages to whoever subscribes. For one thread; no call waits.

    Args:
        name: Of the process, for errors.
        addresses: Where to listen: ipc:///path in a directory of our own, or tcp on loopback (port ``*``: any).
        epoch: A number greater than that of any earlier run of this process, such as its start in nanoseconds.
        context: The ZeroMQ context; the process's own by default.
        queue_messages: How many messages may wait for one lossless subscriber of one topic.
        queue_bytes: How many bytes may wait for it.

    Attributes:
        addresses: Where it listens, with the ports that the system chose.
        sockets: For a poller; readable when :meth:`poll` has something to do.
        refused: Grants that were not well formed.
        last_refusal: Why the last one was refused.
        dropped: Messages that found a lossless subscriber's queue full (the oldest in it is dropped).
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[str],
        epoch: int,
        *,
        context: "zmq.Context[Socket] | None" = None,
        queue_messages: int = QUEUE_MESSAGES,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        if not 0 <= epoch < 2**63:
            raise TransportError(f"outlet {name}: epoch must be 0..2^63-1, not {epoch}")
        for address in addresses:
            check_address(address)
        self.name = name
        self.epoch = epoch
        self.refused = 0
        self.last_refusal = ""
        self.dropped = 0
        self._blocked = False
        self._queue_messages = queue_messages
        self._queue_bytes = queue_bytes
        self._topics: dict[str, _Topic] = {}
        self._heard_ns: dict[bytes, int] = {}
        self._next_expiry_ns = 0
        self._socket: Socket = (context or zmq.Context.instance()).socket(zmq.ROUTER)
        configure(self._socket, MAX_GRANT)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a subscriber that is gone is an error, not a silent loss
        bound = []
        try:
            for address in addresses:
                self._socket.bind(address)
                bound.append(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        except zmq.ZMQError as error:
            self._socket.close()
            raise TransportError(f"outlet {name}: {address}: {error}") from error
        self.addresses = tuple(bound)
        self.sockets: tuple[Socket, ...] = (self._socket,)

    def publish(self, topic: str, message: Message, sent_ns: int, step_ns: int) -> None:
        """Make ``message`` the newest of ``topic`` and send it to every subscriber that has room for it.

        Its large arrays are not copied: they must not change any more.

        Raises:
            MessageError: the message is not of the topic's type, or too large.
        """
        epoch, sequence = position = self.upcoming(topic)
        frames = encode(Header(topic, epoch, sequence, sent_ns, step_ns), message)
        self._put(self._topic(topic), _Packet(position, frames))

    def upcoming(self, topic: str) -> Position:
        """Epoch and sequence of what is published next."""
        state = self._topics.get(topic)
        return (self.epoch, 0) if state is None else state.next

    def relay(self, received: Received) -> None:
        """Publish what another process said, under its own header and in its own bytes.

        A topic that is relayed is not published besides.

        Raises:
            MessageError: it is not newer, by epoch and sequence, than what was sent of its topic.
        """
        header, body = received.header, received.wire()
        state, position = self._topic(header.topic), (header.epoch, header.sequence)
        if position < state.next:
            raise MessageError(f"{header.topic}: {position} cannot be relayed after {state.next} was expected")
        self._put(state, _Packet(position, [encode_header(header, len(body) - 1), *body]))

    def _topic(self, name: str) -> _Topic:
        state = self._topics.get(name)
        if state is None:
            state = self._topics[name] = _Topic(self.epoch)
        return state

    def _put(self, state: _Topic, packet: _Packet) -> None:
        state.slot = packet
        state.next = (packet.position[0], packet.position[1] + 1)
        gone = []
        for identity, reader in state.readers.items():
            if reader.mode == "lossless":
                self._enqueue(reader, packet)
            if not self._flush(identity, reader, packet):
                gone.append(identity)
        for identity in gone:
            self._forget(identity)

    def poll(self) -> None:
        """Take in grants and send what they make room for. Call at least ten times a second."""
        now_ns = clock.monotonic_ns()
        socket = self._socket
        taken = False
        for _ in range(GRANTS_PER_POLL):
            if not has_input(socket):
                break
            frames = socket.recv_multipart(zmq.NOBLOCK)
            taken = True
            try:
                if len(frames) != 2:
                    raise MessageError(f"grant: must be one frame, not {len(frames) - 1}")
                self._take(frames[0], decode_grants(frames[1]), now_ns)
            except MessageError as error:
                self._refuse(str(error))
        if taken or self._blocked:
            self._flush_all()
        if now_ns >= self._next_expiry_ns:
            self._next_expiry_ns = now_ns + PEER_EXPIRES_NS // 10
            for identity in [i for i, heard in self._heard_ns.items() if now_ns - heard > PEER_EXPIRES_NS]:
                self._forget(identity)

    def close(self) -> None:
        """Stop publishing; what is on its way may be lost."""
        self._socket.close()

    # ------------------------------------------------------------ subscribers

    def _take(self, identity: bytes, grants: Sequence[Grant], now_ns: int) -> None:
        if identity not in self._heard_ns and len(self._heard_ns) >= MAX_PEERS:
            quietest = min(self._heard_ns, key=self._heard_ns.__getitem__)
            if now_ns - self._heard_ns[quietest] < PEER_QUIET_NS:
                raise MessageError(f"grant: {MAX_PEERS} subscribers are connected already")
            self._forget(quietest)
        self._heard_ns[identity] = now_ns
        for grant in grants:
            topic = self._topic(grant.topic)
            epoch, following = topic.next
            position = (grant.epoch, grant.sequence) if grant.epoch <= epoch else _NOTHING
            if grant.epoch == epoch and grant.sequence >= following:
                self._refuse(f"grant: {grant.topic} {grant.sequence} was never sent")
                continue
            reader = topic.readers.get(identity)
            if reader is None or reader.mode != grant.mode:
                reader = topic.readers[identity] = _Reader(grant.mode, grant.window, position)
                if reader.mode == "lossless" and topic.slot is not None and topic.slot.position > position:
                    self._enqueue(reader, topic.slot)
            reader.window = grant.window
            reader.acknowledge(position)

    def _refuse(self, text: str) -> None:
        self.refused += 1
        self.last_refusal = text

    def _forget(self, identity: bytes) -> None:
        self._heard_ns.pop(identity, None)
        for topic in self._topics.values():
            topic.readers.pop(identity, None)

    def _enqueue(self, reader: _Reader, packet: _Packet) -> None:
        reader.queue.append(packet)
        reader.queue_bytes += packet.size
        while len(reader.queue) > self._queue_messages or reader.queue_bytes > self._queue_bytes:
            reader.queue_bytes -= reader.queue.popleft().size
            self.dropped += 1

    # ------------------------------------------------------------ sending

    def _flush_all(self) -> None:
        self._blocked = False
        gone = {
            identity
            for topic in self._topics.values()
            if topic.slot is not None
            for identity, reader in topic.readers.items()
            if not self._flush(identity, reader, topic.slot)
        }
        for identity in gone:
            self._forget(identity)

    def _flush(self, identity: bytes, reader: _Reader, newest: _Packet) -> bool:
        """Send what ``reader`` has room for; False if it is gone."""
        try:
            if reader.mode == "latest":
                if newest.position > reader.sent and reader.has_room(newest.size):
                    self._send(identity, reader, newest)
            else:
                queue = reader.queue
                while queue and reader.has_room(queue[0].size):
                    self._send(identity, reader, queue[0])
                    reader.queue_bytes -= queue.popleft().size
        except zmq.Again:  # no room in the pipe: the next poll tries again
            self._blocked = True
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def _send(self, identity: bytes, reader: _Reader, packet: _Packet) -> None:
        send = self._socket.send
        send(identity, zmq.SNDMORE | zmq.NOBLOCK)  # refuses here or not at all: a message is never split
        *first, last = packet.frames
        for frame in first:
            send(frame, zmq.SNDMORE | zmq.NOBLOCK, copy=len(frame) < ZERO_COPY_BYTES)
        send(last, zmq.NOBLOCK, copy=len(last) < ZERO_COPY_BYTES)
        reader.sent = packet.position
        reader.flying.append((packet.position, packet.size))
        reader.flying_bytes += packet.size
