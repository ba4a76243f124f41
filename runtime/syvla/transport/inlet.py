"""The receiving end of the bus: a DEALER socket for each publisher, and what came in."""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import zmq

from syvla import clock
from syvla.errors import MessageError, TransportError
from syvla.protocols import Header, Received
from syvla.transport.addresses import check_address
from syvla.transport.codec import decode_body, decode_header
from syvla.transport.credit import (
    GRANT_PERIOD_NS,
    MAX_MESSAGE_FRAME,
    WINDOW_BYTES,
    Grant,
    Socket,
    Subscription,
    configure,
    encode_grants,
    has_input,
)
from syvla.transport.wire import MAX_ARRAY_FRAMES, Buffer

MESSAGES_PER_DRAIN = 4096  # from one publisher; one that keeps to its windows sends fewer


class _Feed:
    """One subscribed topic: how far it has been read, and what has been granted."""

    __slots__ = ("accepted", "lossless", "mode", "seen", "topic", "untold", "untold_bytes", "window")

    def __init__(self, subscription: Subscription) -> None:
        self.topic = subscription.topic
        self.mode = subscription.mode
        self.lossless = subscription.mode == "lossless"
        self.window = subscription.checked_window()
        self.seen = (-1, -1)  # (epoch, sequence) up to which messages came, whatever was in them: what is granted
        self.accepted = (-1, -1)  # (epoch, sequence) of the newest good message: not beyond it is a replay
        self.untold = 0  # messages that came since the last grant
        self.untold_bytes = 0

    def see(self, position: tuple[int, int], size: int) -> int:
        """Note that a message came; how many before it did not."""
        self.untold += 1
        self.untold_bytes += size
        epoch, sequence = position
        if epoch != self.seen[0]:
            self.seen = position
            return 0
        missed = sequence - self.seen[1] - 1
        if missed >= 0:
            self.seen = position
        return max(0, missed)

    def grant(self) -> Grant:
        self.untold = self.untold_bytes = 0
        return Grant(self.topic, self.mode, self.window, *self.seen)


class _Arrival(NamedTuple):
    """A message whose header is read and whose body is not."""

    feed: _Feed
    header: Header
    body: list[Buffer]  # body, array frames

    @property
    def position(self) -> tuple[int, int]:
        """Where it stands in its topic: epoch, sequence."""
        return self.header.epoch, self.header.sequence


class _Link:
    """The connection to one publisher."""

    __slots__ = ("feeds", "grants_due", "socket")

    def __init__(self, socket: Socket, feeds: dict[str, _Feed]) -> None:
        self.socket = socket
        self.feeds = feeds
        self.grants_due = True

    def grant(self, everything: bool) -> None:
        """Tell the publisher how far we are: of every topic, or of those where half the window is used up."""
        everything = everything or self.grants_due
        grants = [
            feed.grant()
            for feed in self.feeds.values()
            if everything or 2 * feed.untold >= feed.window or 2 * feed.untold_bytes >= WINDOW_BYTES
        ]
        if not grants:
            return
        try:
            self.socket.send(encode_grants(grants), zmq.NOBLOCK)
            self.grants_due = False
        except zmq.Again:
            self.grants_due = True


class Inlet:
    """Receives what it subscribed to. For one thread; no call waits.

    Publishers may come, go and come back in any order.

    Args:
        subscriptions: At most one for each topic.
        context: The ZeroMQ context; the process's own by default.

    Attributes:
        sockets: For a poller; readable when :meth:`drain` may have something.
        received: Messages that were accepted.
        refused: Messages that were not well formed, or not asked for.
        dropped: Messages that a lossless subscription missed.
        replayed: Messages that were duplicates, out of order or of an earlier epoch.
        superseded: Messages that a latest subscription passed over for a newer one.
        last_refusal: Why the last refused message was refused.
    """

    def __init__(self, subscriptions: Sequence[Subscription], *, context: "zmq.Context[Socket] | None" = None) -> None:
        self.received = 0
        self.refused = 0
        self.dropped = 0
        self.replayed = 0
        self.superseded = 0
        self.last_refusal = ""
        self._next_grant_ns = 0
        by_address: dict[str, dict[str, _Feed]] = {}
        seen: set[str] = set()
        for subscription in subscriptions:
            if subscription.topic in seen:
                raise TransportError(f"{subscription.topic} is subscribed to twice")
            seen.add(subscription.topic)
            feeds = by_address.setdefault(check_address(subscription.address), {})
            feeds[subscription.topic] = _Feed(subscription)
        self._links: list[_Link] = []
        for address, feeds in by_address.items():
            socket: Socket = (context or zmq.Context.instance()).socket(zmq.DEALER)
            configure(socket, MAX_MESSAGE_FRAME)
            self._links.append(_Link(socket, feeds))
            try:
                socket.connect(address)
            except zmq.ZMQError as error:
                self.close()
                raise TransportError(f"{address}: {error}") from error
        self.sockets: tuple[Socket, ...] = tuple(link.socket for link in self._links)
        for link in self._links:
            link.grant(everything=True)

    def drain(self) -> list[Received]:
        """What has come since the last call, checked: of a latest topic the newest, of a lossless one everything.

        Messages of one publisher are in the order in which they came. Call at least ten times a second: more of a
        topic than its window is not on its way, so after a pause the newest may need one more call.
        """
        now_ns = clock.monotonic_ns()
        grants_due = now_ns >= self._next_grant_ns
        accepted: list[Received] = []
        for link in self._links:
            arrivals = self._read(link)
            link.grant(grants_due)  # before the bodies are decoded: the next messages travel meanwhile
            for arrival in self._newest(arrivals) if len(arrivals) > 1 else arrivals:
                self._accept(arrival, now_ns, accepted)
        if grants_due:
            self._next_grant_ns = now_ns + GRANT_PERIOD_NS
        return accepted

    def close(self) -> None:
        """Stop receiving."""
        for link in self._links:
            link.socket.close()

    def _read(self, link: _Link) -> list[_Arrival]:
        """Everything that lies ready, with its headers checked."""
        arrivals: list[_Arrival] = []
        socket = link.socket
        for _ in range(MESSAGES_PER_DRAIN):
            if not has_input(socket):
                break
            first = socket.recv(zmq.NOBLOCK)
            body, excess = _receive_rest(socket)
            try:
                header, arrays = decode_header(first)
                feed = link.feeds.get(header.topic)
                if feed is None:
                    raise MessageError(f"{header.topic}: came without a subscription")
                missed = feed.see((header.epoch, header.sequence), sum(map(len, body)))
                if feed.lossless:
                    self.dropped += missed
                if excess or len(body) != 1 + arrays:
                    raise MessageError(f"{header.topic}: must have {arrays} array frames, as its header says")
            except MessageError as error:
                self._refuse(error)
                continue
            arrivals.append(_Arrival(feed, header, body))
        return arrivals

    def _newest(self, arrivals: list[_Arrival]) -> Iterable[_Arrival]:
        """The arrivals without those of latest topics that a newer one supersedes."""
        newest: dict[str, _Arrival] = {}
        for arrival in arrivals:
            if not arrival.feed.lossless:
                before = newest.get(arrival.header.topic)
                if before is None or before.position < arrival.position:
                    newest[arrival.header.topic] = arrival
        for arrival in arrivals:
            if arrival.feed.lossless or newest[arrival.header.topic] is arrival:
                yield arrival
            else:
                self.superseded += 1

    def _accept(self, arrival: _Arrival, now_ns: int, accepted: list[Received]) -> None:
        feed, header, body = arrival
        if arrival.position <= feed.accepted:
            self.replayed += 1
            return
        try:
            message = decode_body(header.topic, body)
        except MessageError as error:
            self._refuse(error)
            return
        feed.accepted = arrival.position
        self.received += 1
        accepted.append(Received(header, message, now_ns, functools.partial(tuple, body)))

    def _refuse(self, error: MessageError) -> None:
        self.refused += 1
        self.last_refusal = str(error)


def _receive_rest(socket: Socket) -> tuple[list[Buffer], bool]:
    """The frames after the first: the body copied, array frames not; and whether there were too many."""
    if not socket.getsockopt(zmq.RCVMORE):
        return [], False
    frames: list[Buffer] = [socket.recv(zmq.NOBLOCK)]
    more = bool(socket.getsockopt(zmq.RCVMORE))
    excess = False
    while more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        more = frame.more
        excess = len(frames) > MAX_ARRAY_FRAMES
        if not excess:
            frames.append(frame.buffer.toreadonly())
    return frames, excess
