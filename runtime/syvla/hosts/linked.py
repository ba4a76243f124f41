"""The robot's end of the link to a planner elsewhere, and the ends of this machine, as one inlet and one outlet."""

from collections.abc import Sequence
from typing import Any

from syvla.message import Message
from syvla.protocols import Incoming, Outgoing, Received
from syvla.transport.link_end import UP
from syvla.transport.robot_end import RobotEnd


class LinkedInlet:
    """What comes from this machine and down the link."""

    def __init__(self, local: Incoming, link: RobotEnd) -> None:
        self._local, self._link = local, link
        self.sockets: Sequence[Any] = (*local.sockets, *link.sockets)
        self.poll_ns = min(local.poll_ns, link.poll_ns)

    @property
    def received(self) -> int:
        """Messages that were accepted."""
        return self._local.received + self._link.received

    @property
    def refused(self) -> int:
        """Messages that were not well formed."""
        return self._local.refused + self._link.refused

    @property
    def dropped(self) -> int:
        """Messages that a lossless subscription missed."""
        return self._local.dropped

    @property
    def last_refusal(self) -> str:
        """What is wrong with the link, or why the last refused message was refused."""
        return self._link.trouble or self._link.last_refusal or self._local.last_refusal

    def drain(self) -> list[Received]:
        """What has come since the last call."""
        return [*self._local.drain(), *self._link.drain()]

    def close(self) -> None:
        """Stop receiving."""
        self._local.close()
        self._link.close()


class LinkedOutlet:
    """Sends up the link what is the planner's to see, and everything else to this machine.

    The stage is no planner while nobody answers, so its health is only told while somebody does.
    """

    def __init__(self, local: Outgoing, link: RobotEnd) -> None:
        self._local, self._link = local, link
        self.sockets: Sequence[Any] = local.sockets

    @property
    def dropped(self) -> int:
        """Messages that found a lossless subscriber's queue full."""
        return self._local.dropped

    def publish(self, topic: str, message: Message, sent_ns: int, step_ns: int) -> None:
        """Send up, or to whoever subscribes here."""
        if topic in UP:
            self._link.publish(topic, message, sent_ns, step_ns)
        elif self._link.connected or not topic.startswith("health/"):
            self._local.publish(topic, message, sent_ns, step_ns)

    def relay(self, received: Received) -> None:
        """Send what came down the link, as it came."""
        self._local.relay(received)

    def poll(self) -> None:
        """Serve the subscribers and the link."""
        self._local.poll()
        self._link.poll()

    def close(self) -> None:
        """Stop publishing."""
        self._local.close()
