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
    Socket,
    Subscription,
    has_input,
)
from syvla.transport.link import Feed, Link
from syvla.transport.wire import MAX_ARRAY_FRAMES, Buffer

MESSAGES_PER_DRAIN = 4096  # from one publisher; one that keeps to its windows sends fewer


class _Arrival(NamedTuple):
    """A message whose header is read and whose body is not."""

    feed: Feed
    header: Header
    position: tuple[int, int]  # epoch, sequence
    body: list[Buffer]  # body, array frames


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
        poll_ns: How long one may go without a :meth:`drain` when no socket is readable.
    """

    poll_ns = 100_000_000

    def __init__(self, subscriptions: Sequence[Subscription], *, context: "zmq.Context[Socket] | None" = None) -> None:
        self.received = 0
        self.refused = 0
        self.dropped = 0
        self.replayed = 0
        self.superseded = 0
        self.last_refusal = ""
        self._next_grant_ns = 0
        by_address: dict[str, dict[str, Feed]] = {}
        seen: set[str] = set()
        for subscription in subscriptions:
            if subscription.topic in seen:
                raise TransportError(f"{subscription.topic} is subscribed to twice")
            seen.add(subscription.topic)
            feeds = by_address.setdefault(check_address(subscription.address), {})
            feeds[subscription.topic] = Feed(subscription)
        self._links: list[Link] = []
        try:
            for address, feeds in by_address.items():
                self._links.append(Link(address, feeds, context or zmq.Context.instance()))
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
            self._mend()
        return accepted

    def lost(self) -> list[str]:
        """The addresses of publishers that went away since the last call; a killed process does within milliseconds."""
        return [link.address for link in self._links if link.lost()]

    def close(self) -> None:
        """Stop receiving."""
        for link in self._links:
            link.close()

    def _mend(self) -> None:
        for link in self._links:
            if link.mend():
                topics = ", ".join(link.feeds)
                self._refuse(MessageError(f"{topics}: the publisher broke the protocol or a limit of size"))

    def _read(self, link: Link) -> list[_Arrival]:
        """Everything that lies ready, with its headers checked."""
        arrivals: list[_Arrival] = []
        socket = link.socket
        for _ in range(MESSAGES_PER_DRAIN):
            if not has_input(socket):
                break
            first = socket.recv(zmq.NOBLOCK)
            body, excess = receive_rest(socket)
            try:
                header, arrays = decode_header(first)
                feed = link.feeds.get(header.topic)
                if feed is None:
                    raise MessageError(f"{header.topic}: came without a subscription")
                position = header.epoch, header.sequence
                missed = feed.see(position, sum(map(len, body)))
                if feed.lossless:
                    self.dropped += missed
                if excess or len(body) != 1 + arrays:
                    raise MessageError(f"{header.topic}: must have {arrays} array frames, as its header says")
            except MessageError as error:
                self._refuse(error)
                continue
            arrivals.append(_Arrival(feed, header, position, body))
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
        feed, header, position, body = arrival
        if position <= feed.accepted:
            self.replayed += 1
            return
        try:
            message = decode_body(header.topic, body)
        except MessageError as error:
            self._refuse(error)
            return
        feed.accepted = position
        self.received += 1
        accepted.append(Received(header, message, now_ns, functools.partial(tuple, body)))

    def _refuse(self, error: MessageError) -> None:
        self.refused += 1
        self.last_refusal = str(error)


def receive_rest(socket: Socket) -> tuple[list[Buffer], bool]:
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
