"""The two ends of ROS for a stage: what a process host reads from and publishes to, beside those of the bus."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from rclpy.node import Node

from syvla.clock import monotonic_ns
from syvla.errors import MessageError
from syvla.message import Message
from syvla.messages import OperatorCommand
from syvla.protocols import Header, Received
from syvla.transport.bus import Inlet, Outlet
from syvla.transport.codec import encode_body
from syvla_ros.conversions import sign, signature
from syvla_ros.routes import Route
from syvla_ros.taking import PublisherEventCallbacks, Taker

CROWDED_NS = 1_000_000_000
LOG_PERIOD_S = 5.0
EPOCHS = 16  # of publishers that are remembered
POLL_NS = 2_000_000  # a DDS reader has no descriptor to wait for; looking costs a microsecond


class RosInlet:
    """Reads ``routes``, those that can be read.

    A message without a header is told from others by the time at which it was sent, so that all who read it, a recorder
    among them, mean the same one. That time is of another clock and orders nothing.
    """

    poll_ns = POLL_NS
    sockets: Sequence[Any] = ()

    def __init__(self, node: Node, routes: Iterable[Route]) -> None:
        self.received = 0
        self.refused = 0
        self.dropped = 0
        self.last_refusal = ""
        self._epochs: dict[str, list[int]] = {}  # of the publishers of each topic, the one that spoke last at the end
        self._crowded_ns: dict[str, int] = {}
        self._takers = [
            (route, Taker(node, route.ros_type, route.ros_name, route.quality))
            for route in routes
            if route.back is not None
        ]

    def drain(self) -> list[Received]:
        """What has come since the last call, checked and converted."""
        found: list[Received] = []
        for route, taker in self._takers:
            for message in taker.take():
                self._accept(route, message, taker.sent_ns, found)
        return found

    def _accept(self, route: Route, message: Any, wall_ns: int, found: list[Received]) -> None:
        now_ns = monotonic_ns()
        assert route.back is not None  # noqa: S101 - narrows the type
        try:
            ours = route.back(message, now_ns)
            epoch, sequence = signature(message.header) if hasattr(message, "header") else (0, max(wall_ns, 0))
        except MessageError as error:
            self.refused += 1
            self.last_refusal = f"{route.ros_name}: {error}"
            return
        self.received += 1
        self._hear(route.topic, epoch, now_ns)
        header = Header(route.topic, epoch, sequence, now_ns, 0)
        found.append(Received(header, ours, now_ns, partial(encode_body, ours)))

    def _hear(self, topic: str, epoch: int, now_ns: int) -> None:
        heard = self._epochs.setdefault(topic, [])
        if heard and heard[-1] == epoch:
            return
        if epoch in heard:
            self._crowded_ns[topic] = now_ns
            heard.remove(epoch)
        heard.append(epoch)
        del heard[:-EPOCHS]

    def crowded(self, topic: str) -> bool:
        """Whether two publishers of ``topic`` have lately spoken in turn: nobody could say who commands.

        The graph would not do: it names a killed publisher for another 20 s, beside the one that took its place.
        """
        return monotonic_ns() - self._crowded_ns.get(topic, -CROWDED_NS) < CROWDED_NS

    def close(self) -> None:
        """Stop reading."""
        for _, taker in self._takers:
            taker.close()


class RosOutlet:
    """Publishes by ``routes``; a message that nobody subscribes to is not even converted."""

    def __init__(self, node: Node, routes: Iterable[Route]) -> None:
        self._node = node
        self._writers: dict[str, list[tuple[Route, Any]]] = {}
        for route in routes:
            if route.into is None:
                continue
            silent = PublisherEventCallbacks(use_default_callbacks=False)  # for the same reason as a reader's
            publisher: Any = node.create_publisher(
                route.ros_type, route.ros_name, route.quality, event_callbacks=silent
            )
            self._writers.setdefault(route.topic, []).append((route, publisher))

    def publish(self, topic: str, message: Message, epoch: int, sequence: int) -> None:
        """Send ``message`` where somebody listens, signed with its position; what ROS cannot say is logged."""
        for route, publisher in self._writers.get(topic, ()):
            if publisher.get_subscription_count() == 0:
                continue
            assert route.into is not None  # noqa: S101 - narrows the type
            try:
                converted = route.into(message)
            except MessageError as error:
                said = f"{route.ros_name} is not sent: {error}"
                self._node.get_logger().warning(said, throttle_duration_sec=LOG_PERIOD_S)
                continue
            if converted is None:
                continue
            if route.back is not None and hasattr(converted, "header"):
                sign(converted.header, epoch, sequence)
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

    When a process of ``held_for`` goes away, or two nodes publish chunks, the arms are to hold. ``heard`` are the
    topics that came over the bus; those that are only ``watched`` are not handed on. ``overhear`` is called with what
    the desk says, for whoever records it, and gives it back under the header that it is recorded with.
    """

    def __init__(
        self,
        bus: Inlet,
        ros: RosInlet,
        desk: Desk,
        held_for: Sequence[str],
        overhear: Callable[[Received], Received],
        watched: Sequence[str] = (),
    ) -> None:
        self._bus, self._ros, self._desk = bus, ros, desk
        self._watched = frozenset(watched)
        self._held_for, self._overhear = held_for, overhear
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
                self._hold(f"{name} has ended")
        came = self._bus.drain()
        self.heard.update(received.header.topic for received in came)
        came = [received for received in came if received.header.topic not in self._watched]
        came += self._ros.drain()
        if self._ros.crowded("chunk"):
            self._hold("more than one node publishes chunks")
        return [*map(self._overhear, self._desk.drain()), *came]

    def _hold(self, lost: str) -> None:
        now_ns = monotonic_ns()
        self._desk.say("robot/operator", OperatorCommand(command_id=now_ns, issued_ns=now_ns, action="hold", lost=lost))

    def crowded(self, topic: str) -> bool:
        """Whether two ROS publishers of ``topic`` have lately spoken in turn."""
        return self._ros.crowded(topic)

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
        """Send to whoever subscribes, on either; first on ROS, where those are who act, then to the recorder.

        The position is the same on both, so that it can be told in a recording what a stage read over ROS.
        """
        self.seen[topic] = message
        self._ros.publish(topic, message, *self._bus.upcoming(topic))
        self._bus.publish(topic, message, sent_ns, step_ns)

    def said(self, received: Received) -> Received:
        """Publish what was said in this process; ``received`` under the header that it is published with."""
        header = received.header
        epoch, sequence = self._bus.upcoming(header.topic)
        self.publish(header.topic, received.message, header.sent_ns, 0)
        return received._replace(header=header._replace(epoch=epoch, sequence=sequence))

    def relay(self, received: Received) -> None:
        """Pass on what another process sent, on either."""
        topic = received.header.topic
        self.seen[topic] = received.message
        self._bus.relay(received)
        self._ros.publish(topic, received.message, received.header.epoch, received.header.sequence)

    def poll(self) -> None:
        """Serve the bus."""
        self._bus.poll()

    def close(self) -> None:
        """Stop publishing."""
        self._bus.close()
        self._ros.close()
