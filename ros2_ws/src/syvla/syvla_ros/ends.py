"""The two ends of ROS for a stage: what a process host reads from and publishes to, beside those of the bus."""

import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from syvla.clock import monotonic_ns
from syvla.errors import MessageError
from syvla.message import Message
from syvla.messages import OperatorCommand
from syvla.protocols import Header, Received
from syvla.transport.bus import Inlet, Outlet
from syvla.transport.codec import encode_body
from syvla_ros.routes import Route

POLL_NS = 2_000_000  # a DDS reader has no descriptor to wait for; looking costs a microsecond
MESSAGES_PER_DRAIN = 64  # of one topic: more at a time is no controller


class _Taken(CallbackGroup):
    """Readers whose messages are taken, so that an executor of the same node neither waits for them nor takes any."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Never."""


class RosInlet:
    """Reads ``routes`` without an executor: a look at each reader takes a microsecond and wakes nobody.

    Attributes are those of every inlet; ``publishers`` counts, for each topic, the publishers heard since it was read.
    """

    poll_ns = POLL_NS
    sockets: Sequence[Any] = ()

    def __init__(self, node: Node, routes: Iterable[Route]) -> None:
        self.received = 0
        self.refused = 0
        self.dropped = 0
        self.last_refusal = ""
        self._node = node
        group = _Taken()
        self._readers = [
            (
                route,
                node.create_subscription(route.ros_type, route.ros_name, _ignore, route.quality, callback_group=group),
            )
            for route in routes
            if route.back is not None
        ]

    def drain(self) -> list[Received]:
        """What has come since the last call, checked and converted."""
        found: list[Received] = []
        for route, reader in self._readers:
            for _ in range(MESSAGES_PER_DRAIN):
                with reader.handle:
                    taken = reader.handle.take_message(reader.msg_type, False)
                if taken is None:
                    break
                self._accept(route, *taken, found)
        return found

    def _accept(self, route: Route, message: Any, info: Any, found: list[Received]) -> None:
        now_ns = monotonic_ns()
        assert route.back is not None  # noqa: S101 - narrows the type
        try:
            ours = route.back(message, now_ns)
        except MessageError as error:
            self.refused += 1
            self.last_refusal = f"{route.ros_name}: {error}"
            return
        self.received += 1
        # A publisher that restarts has another identity: its numbers begin anew, as those of a new epoch do.
        epoch = zlib.crc32(bytes(info["publisher_gid"]["data"]))
        header = Header(route.topic, epoch, info["publication_sequence_number"] or 0, now_ns, 0)
        found.append(Received(header, ours, now_ns, partial(encode_body, ours)))

    def publishers(self, topic: str) -> int:
        """How many publishers ROS knows of ``topic``."""
        return sum(self._node.count_publishers(route.ros_name) for route, _ in self._readers if route.topic == topic)

    def close(self) -> None:
        """Stop reading."""
        for _, reader in self._readers:
            self._node.destroy_subscription(reader)


class RosOutlet:
    """Publishes by ``routes``; a message that nobody subscribes to is not even converted."""

    def __init__(self, node: Node, routes: Iterable[Route]) -> None:
        self.refused = 0
        self.last_refusal = ""
        self._node = node
        self._writers: dict[str, list[tuple[Route, Any]]] = {}
        for route in routes:
            if route.into is None:
                continue
            publisher = node.create_publisher(route.ros_type, route.ros_name, route.quality)
            self._writers.setdefault(route.topic, []).append((route, publisher))

    def publish(self, topic: str, message: Message) -> None:
        """Send ``message`` where somebody listens; what ROS cannot say is counted."""
        for route, publisher in self._writers.get(topic, ()):
            if publisher.get_subscription_count() == 0:
                continue
            assert route.into is not None  # noqa: S101 - narrows the type
            try:
                converted = route.into(message)
            except MessageError as error:
                self.refused += 1
                self.last_refusal = f"{route.ros_name}: {error}"
                continue
            if converted is not None:
                publisher.publish(converted)

    def close(self) -> None:
        """Stop publishing."""
        for writers in self._writers.values():
            for _, publisher in writers:
                self._node.destroy_publisher(publisher)


class Desk:
    """What is said inside this process, by a service or a watch, to its own stage. For any thread."""

    def __init__(self) -> None:
        self._waiting: deque[Received] = deque()
        self._said = 0
        self._epoch = monotonic_ns()

    def say(self, topic: str, message: Message) -> None:
        """Let the stage have ``message`` at its next step."""
        now_ns = monotonic_ns()
        header = Header(topic, self._epoch, self._said, now_ns, 0)
        self._said += 1
        self._waiting.append(Received(header, message, now_ns, partial(encode_body, message)))

    def drain(self) -> list[Received]:
        """What was said since the last call."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


class JoinedInlet:
    """The bus, ROS and the desk as one inlet.

    When a process of ``held_for`` goes away the arms are to hold. ``heard`` are the topics that came over the bus.
    """

    def __init__(self, bus: Inlet, ros: RosInlet, desk: Desk, held_for: Sequence[str]) -> None:
        self._bus, self._ros, self._desk = bus, ros, desk
        self._held_for = held_for
        self.heard: set[str] = set()
        self.sockets = bus.sockets
        self.poll_ns = ros.poll_ns

    @property
    def received(self) -> int:
        """Messages that were accepted."""
        return self._bus.received + self._ros.received

    @property
    def refused(self) -> int:
        """Messages that were not well formed."""
        return self._bus.refused + self._ros.refused

    @property
    def dropped(self) -> int:
        """Messages that a lossless subscription missed."""
        return self._bus.dropped

    @property
    def last_refusal(self) -> str:
        """Why the last refused message was refused."""
        return self._ros.last_refusal or self._bus.last_refusal

    def drain(self) -> list[Received]:
        """What has come since the last call."""
        for address in self._bus.lost():
            name = address.rpartition("/")[2]
            if name in self._held_for:
                now_ns = monotonic_ns()
                hold = OperatorCommand(command_id=now_ns, issued_ns=now_ns, action="hold", lost=f"{name} has ended")
                self._desk.say("operator", hold)
        came = self._bus.drain()
        self.heard.update(received.header.topic for received in came)
        return [*self._desk.drain(), *came, *self._ros.drain()]

    def publishers(self, topic: str) -> int:
        """How many publishers ROS knows of ``topic``."""
        return self._ros.publishers(topic)

    def close(self) -> None:
        """Stop receiving."""
        self._bus.close()
        self._ros.close()


class JoinedOutlet:
    """The bus and ROS as one outlet; ``seen`` keeps the newest message of each topic for the node's services."""

    def __init__(self, bus: Outlet, ros: RosOutlet) -> None:
        self._bus, self._ros = bus, ros
        self.sockets = bus.sockets
        self.seen: dict[str, Message] = {}

    @property
    def dropped(self) -> int:
        """Messages that found a lossless subscriber's queue full."""
        return self._bus.dropped

    def publish(self, topic: str, message: Message, sent_ns: int, step_ns: int) -> None:
        """Send to whoever subscribes, on either."""
        self.seen[topic] = message
        self._bus.publish(topic, message, sent_ns, step_ns)
        self._ros.publish(topic, message)

    def relay(self, received: Received) -> None:
        """Pass on what another process sent, on either."""
        topic = received.header.topic
        self.seen[topic] = received.message
        self._bus.relay(received)
        self._ros.publish(topic, received.message)

    def poll(self) -> None:
        """Serve the bus."""
        self._bus.poll()

    def close(self) -> None:
        """Stop publishing."""
        self._bus.close()
        self._ros.close()


def _ignore(message: Any) -> None:
    """No executor ever calls it: messages are taken."""
