"""Devices that other nodes drive: an arm behind a driver node, cameras behind camera nodes.

The profile says what their topics are called. Messages are taken, not called back: a look costs a microsecond.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState, Joy

from syvla.clock import monotonic_ns
from syvla.config import SafetyLimits
from syvla.errors import DriverError, MessageError
from syvla.message import Array, Float64
from syvla.messages import ArmName, ArmState, CameraFrame
from syvla.profiles import TopicProfile
from syvla.protocols import GamepadState
from syvla_ros import conversions, qos
from syvla_ros.clock import RosClock
from syvla_ros.taking import Taker

JOY = "/joy"
FRESH_NS = 100_000_000  # a driver that is heard this recently is there


class RosArm:
    """One arm behind a driver node, as an :class:`~syvla.protocols.ArmDriver`.

    Torque is the driver node's matter: it must be started so that it enables its arm. Of faults a joint state says
    nothing; a silent driver is seen by the age of its stamps. Its limits are taken to be the rig's.
    """

    def __init__(self, arm: ArmName, node: Node, names: TopicProfile, clock: RosClock, limits: SafetyLimits) -> None:
        self.arm = arm
        self._node, self._names, self._clock, self._limits = node, names, clock, limits
        self._state: ArmState | None = None
        self._taker: Taker | None = None
        self._commands: Any = None

    def open(self) -> None:
        """Begin to listen; no driver needs to be there yet."""
        self._taker = Taker(self._node, JointState, self._names.state[self.arm], qos.SENSOR)
        self._commands = self._node.create_publisher(JointState, self._names.command[self.arm], qos.COMMAND)

    def enable(self) -> bool:
        """Whether the driver node is heard."""
        state = self._state
        return state is not None and monotonic_ns() - state.measured_ns < FRESH_NS

    @property
    def position_limits_rad(self) -> tuple[Sequence[float], Sequence[float]]:
        """The rig's limits (6,), (6,): a joint state names none."""
        return self._limits.position_min_rad, self._limits.position_max_rad

    def read(self, now_ns: int) -> ArmState | None:
        """The newest joint state; DriverError if it is not one of this arm's."""
        taken = [] if self._taker is None else list(self._taker.take())
        if taken:
            try:
                self._state = conversions.arm_state_of(taken[-1], self.arm, self._names, self._clock)
            except MessageError as error:
                raise DriverError(f"{self._names.state[self.arm]}: {error}") from error
        return self._state

    def command(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Publish a set-point; DriverError if nobody takes it."""
        if self._commands is None or self._commands.get_subscription_count() == 0:
            raise DriverError(f"{self._names.command[self.arm]}: no driver node takes set-points")
        stamp = self._clock.to_ros(monotonic_ns())
        self._commands.publish(conversions.set_point_message(position_rad, gripper_width_m, self._names, stamp))

    def close(self) -> None:
        """Stop listening; the driver node keeps the arm at the last set-point."""
        if self._taker is not None:
            self._taker.close()


class RosGamepad:
    """A game controller behind a ``game_controller_node``, as a :class:`~syvla.protocols.Gamepad`."""

    def __init__(self, node: Node, clock: RosClock) -> None:
        self._clock = clock
        self._taker = Taker(node, Joy, JOY, qos.SENSOR)
        self._state: GamepadState | None = None

    def read(self, now_ns: int) -> GamepadState | None:
        """The newest sample, however old; None before the first and after one that says "unplugged"."""
        for message in self._taker.take():
            self._state = conversions.gamepad_of(message, self._clock)
        return self._state

    def close(self) -> None:
        """Stop listening."""
        self._taker.close()


class RosCameras:
    """Cameras behind camera nodes that publish raw images, as a :class:`~syvla.protocols.CameraSource`.

    Depth is taken along where an image of it has the very stamp of the colour image.
    """

    def __init__(self, node: Node, cameras: Sequence[str], names: TopicProfile, clock: RosClock) -> None:
        self._clock = clock
        self._colour = {c: Taker(node, Image, names.image[c], qos.SENSOR) for c in cameras}
        self._depth = {c: Taker(node, Image, names.depth[c], qos.SENSOR) for c in cameras}
        self._last_depth: dict[str, tuple[int, Array]] = {}

    def read(self, now_ns: int) -> list[CameraFrame]:
        """The newest frame of each camera that sent one since the last call; DriverError if one is no image."""
        return list(self._frames())

    def _frames(self) -> Iterator[CameraFrame]:
        for camera, taker in self._colour.items():
            try:
                for message in self._depth[camera].take():
                    stamp_ns = self._clock.to_monotonic_ns(message.header.stamp)
                    self._last_depth[camera] = (stamp_ns, conversions.depth_of_image(message))
                taken = list(taker.take())
                if not taken:
                    continue
                stamp_ns, depth_mm = self._last_depth.get(camera, (-1, None))
                frame = conversions.frame_of_image(taken[-1], camera, self._clock)
            except MessageError as error:
                raise DriverError(f"{camera}: {error}") from error
            if depth_mm is None or stamp_ns != frame.exposure_ns:
                yield frame
            else:
                yield CameraFrame(
                    camera=camera,
                    frame_id=frame.frame_id,
                    exposure_ns=frame.exposure_ns,
                    rgb=frame.rgb,
                    depth_mm=depth_mm.astype(np.uint16),
                )

    def close(self) -> None:
        """Stop listening."""
        for taker in (*self._colour.values(), *self._depth.values()):
            taker.close()
