"""One connection of an inlet: what it has granted for each topic, and mending it when libzmq gives it up."""

from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from syvla.transport.credit import (
    MAX_MESSAGE_FRAME,
    WINDOW_BYTES,
    Grant,
    Socket,
    Subscription,
    configure,
    encode_grants,
    has_input,
)

_GIVEN_UP: Final = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)  # unless libzmq goes on to try again
_ALIVE: Final = zmq.EVENT_CONNECTED | zmq.EVENT_CONNECT_RETRIED


class Feed:
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
        """What the publisher is to be told of this topic."""
        self.untold = self.untold_bytes = 0
        return Grant(self.topic, self.mode, self.window, *self.seen)


class Link:
    """The connection to the publisher at ``address``."""

    __slots__ = ("_event", "_given_up", "_grants_due", "_lost", "_monitor", "address", "feeds", "socket")

    def __init__(self, address: str, feeds: dict[str, Feed], context: "zmq.Context[Socket]") -> None:
        self.feeds = feeds
        self.socket: Socket = context.socket(zmq.DEALER)
        configure(self.socket, MAX_MESSAGE_FRAME)
        self.address = address
        self._grants_due = True
        self._event = 0  # the newest since the last mend()
        self._lost = False
        self._given_up = 0  # calls of mend() in a row that found it given up
        self._monitor: Socket = self.socket.get_monitor_socket(_GIVEN_UP | _ALIVE)
        self.socket.connect(address)

    def grant(self, everything: bool) -> None:
        """Tell the publisher how far we are: of every topic, or of those where half the window is used up."""
        everything = everything or self._grants_due
        grants = [
            feed.grant()
            for feed in self.feeds.values()
            if everything or 2 * feed.untold >= feed.window or 2 * feed.untold_bytes >= WINDOW_BYTES
        ]
        if not grants:
            return
        try:
            self.socket.send(encode_grants(grants), zmq.NOBLOCK)
            self._grants_due = False
        except zmq.Again:
            self._grants_due = True

    def lost(self) -> bool:
        """Whether a connection that was there broke since the last call."""
        self._watch()
        lost, self._lost = self._lost, False
        return lost

    def _watch(self) -> None:
        while has_input(self._monitor):
            self._event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            self._lost = self._lost or self._event == zmq.EVENT_DISCONNECTED

    def mend(self) -> bool:
        """Connect anew when libzmq has given the connection up; whether it had. Call now and then.

        It tries again by itself when a publisher goes away, but not when one breaks the protocol or sends a
        frame that is too large.
        """
        self._watch()
        event, self._event = self._event, 0
        if event & _ALIVE:
            self._given_up = 0
        elif event or self._given_up:
            self._given_up += 1
        if self._given_up < 2:
            return False
        self._given_up = 0
        self.socket.disconnect(self.address)
        self.socket.connect(self.address)
        self._grants_due = True
        return True

    def close(self) -> None:
        """Leave the publisher."""
        self.socket.disable_monitor()
        self.socket.close()
