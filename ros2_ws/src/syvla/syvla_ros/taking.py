"""Messages taken from ROS by whoever has a loop of its own, without an executor."""

from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

__all__ = ["PublisherEventCallbacks", "Taker"]

MESSAGES_PER_LOOK = 64  # more at a time is no controller


class _Taken(CallbackGroup):
    """Readers that an executor of the same node neither waits for nor takes from."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Never."""


class Taker:
    """One subscription that is looked at; a look that finds nothing costs a microsecond and wakes nobody."""

    def __init__(self, node: Node, ros_type: type, name: str, quality: QoSProfile) -> None:
        self.name = name
        self.sent_ns = 0  # on the wall clock: when the last message that was taken was sent; 0 where DDS does not say
        self._node = node
        # Without event handlers an executor of the node never touches the reader, which may then be destroyed.
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)
        self._reader: Any = node.create_subscription(
            ros_type, name, _ignore, quality, callback_group=_Taken(), event_callbacks=silent
        )

    def take(self) -> Iterator[Any]:
        """The messages that came since the last look, oldest first."""
        for _ in range(MESSAGES_PER_LOOK):
            with self._reader.handle:
                taken = self._reader.handle.take_message(self._reader.msg_type, False)
            if taken is None:
                return
            message, info = taken
            self.sent_ns = int(info["source_timestamp"] if isinstance(info, dict) else info.source_timestamp)
            yield message

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._reader)


def _ignore(message: Any) -> None:
    """Nobody calls it: messages are taken."""
