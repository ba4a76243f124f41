"""What a node's stage reads from and publishes to: bus, ROS, and what is said inside the process."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from syvla.clock import monotonic_ns, wall_offset_ns
from syvla.config import RunConfig, SafetyLimits
from syvla.control.gamepad import DEADMAN, refusal
from syvla.errors import DriverError
from syvla.messages import (
    ActionChunk,
    ArmState,
    Mode,
    OperatorCommand,
    SafetyState,
    Source,
    Task,
    TeleopCommand,
)
from syvla.profiles import profile
from syvla.protocols import Header, Inbox, Received
from syvla.rig import teleop_stage
from syvla.runs import load_rig
from syvla.transport.bus import Inlet, Outlet, Subscription, ipc_directory
from syvla_ros import conversions, qos
from syvla_ros.clock import RosClock
from syvla_ros.ends import Desk, JoinedInlet, RosInlet, RosOutlet
from syvla_ros.foreign import JOY, RosArm, RosCameras, RosGamepad
from syvla_ros.routes import CHUNK, TASK, routes
from syvla_ros.taking import Taker

CLOCK = RosClock(wall_offset_ns())
NAMES = profile("syvla")
ROUTES = routes(NAMES, CLOCK, 90)


def until(condition: Callable[[], Any], limit_s: float = 10.0) -> Any:
    """What ``condition`` gives once it gives something."""
    end_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end_s, "nothing came"
        time.sleep(0.005)
    return found


def by_topic(*topics: str) -> list[Any]:
    return [route for route in ROUTES if route.topic in topics]


def arm_state(arm: Any = "left") -> ArmState:
    return ArmState(
        arm=arm,
        measured_ns=monotonic_ns(),
        position_rad=np.arange(6) / 10,
        velocity_rad_s=np.zeros(6),
        effort_nm=np.zeros(6),
        gripper_width_m=0.03,
        enabled=True,
    )


def action_chunk(chunk_id: int = 0) -> ActionChunk:
    return ActionChunk(
        chunk_id=chunk_id,
        task_id=1,
        intent_id=1,
        intent_observation_ns=monotonic_ns(),
        observation_ns=monotonic_ns(),
        period_ns=33_333_333,
        position_rad=np.zeros((50, 12), "f4"),
        gripper_width_m=np.zeros((50, 2), "f4"),
        inference_delay_steps=0,
    )


def test_what_one_stage_publishes_another_reads(node: Node) -> None:
    outlet, inlet = RosOutlet(node, by_topic("chunk", "arm/left")), RosInlet(node, by_topic("chunk", "arm/left"))

    def send_and_read() -> list[Any]:
        outlet.publish("chunk", action_chunk(7), 5, 0)
        outlet.publish("arm/left", arm_state(), 5, 0)
        return inlet.drain()

    until(send_and_read)
    time.sleep(0.1)
    inlet.drain()
    outlet.publish("chunk", action_chunk(8), 5, 1)
    (received,) = until(inlet.drain)
    assert isinstance(received.message, ActionChunk)
    assert received.message.chunk_id == 8
    assert received.header[:3] == ("chunk", 5, 1), "a recording can tell which of the bus's messages this was"
    assert inlet.refused == 0


def test_a_message_that_is_none_is_counted_and_named(node: Node) -> None:
    inlet = RosInlet(node, by_topic("chunk"))
    publisher = node.create_publisher(JointTrajectory, CHUNK, qos.COMMAND)
    until(lambda: publisher.get_subscription_count())
    publisher.publish(JointTrajectory(joint_names=["elbow"]))
    until(lambda: inlet.drain() or inlet.refused)
    assert inlet.received == 0
    assert inlet.last_refusal.startswith(f"{CHUNK}: JointTrajectory.joint_names must be")


def test_two_publishers_that_speak_in_turn_are_noticed_and_one_that_took_anothers_place_is_not(node: Node) -> None:
    """By ROS's graph a killed expert was there for another 20 s: its successor could not be resumed."""
    inlet = RosInlet(node, by_topic("chunk"))
    outlet = RosOutlet(node, by_topic("chunk"))
    first, second = 100, 200  # the processes' epochs

    def hear(epoch: int) -> None:
        def send_and_read() -> list[Any]:
            outlet.publish("chunk", action_chunk(), epoch, 0)
            return inlet.drain()

        until(send_and_read)
        time.sleep(0.05)
        inlet.drain()

    hear(first)
    hear(second)
    assert not inlet.crowded("chunk")
    hear(first)
    assert inlet.crowded("chunk")
    time.sleep(1.1)
    hear(first)
    assert not inlet.crowded("chunk")  # the other is silent again


def test_nothing_is_converted_for_nobody(node: Node) -> None:
    def refuse(message: Any) -> Any:
        raise AssertionError("converted")

    (route,) = by_topic("chunk")
    RosOutlet(node, [route._replace(into=refuse)]).publish("chunk", action_chunk(), 1, 0)


def test_what_ros_cannot_say_is_passed_over_and_the_next_message_is_sent(node: Node) -> None:
    """A stamp before ROS's epoch, from a run whose wall clock was never taken."""
    inlet, outlet = RosInlet(node, by_topic("arm/left")), RosOutlet(node, by_topic("arm/left"))
    unsayable = msgspec.structs.replace(arm_state(), measured_ns=-2 * CLOCK.offset_ns)

    def send_and_read() -> list[Any]:
        outlet.publish("arm/left", unsayable, 1, 0)
        outlet.publish("arm/left", arm_state(), 1, 1)
        return inlet.drain()

    assert {received.message.measured_ns > 0 for received in until(send_and_read)} == {True}


def test_the_task_in_force_reaches_whoever_comes_later(node: Node) -> None:
    publisher = node.create_publisher(String, f"{TASK}/current", qos.KEPT)
    publisher.publish(String(data="put it there"))
    inlet = RosInlet(node, by_topic("task"))
    (received,) = until(inlet.drain)
    assert isinstance(received.message, Task)
    assert received.message.instruction == "put it there"
    other = RosInlet(node, by_topic("task"))
    (later,) = until(other.drain)
    assert (later.header.epoch, later.header.sequence) == (received.header.epoch, received.header.sequence)
    assert received.header.sequence > 1e18, "the time at which it was sent, on the wall clock"
    assert received.message.issued_ns < later.header.sent_ns < time.monotonic_ns(), "which places it nowhere here"


def test_messages_are_taken_though_an_executor_spins_the_node(node: Node) -> None:
    """The executor would wake for every arm state, and take it away."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    taker = Taker(node, String, "words", qos.COMMAND)
    publisher = node.create_publisher(String, "words", qos.COMMAND)
    until(publisher.get_subscription_count)
    publisher.publish(String(data="mine"))
    for _ in range(20):
        executor.spin_once(timeout_sec=0.01)
    (message,) = taker.take()
    assert message.data == "mine"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder for sockets."""
    path = ipc_directory(f"ends-{time.monotonic_ns()}")
    yield path
    for socket in path.iterdir():
        socket.unlink()
    path.rmdir()


def test_when_a_process_ends_that_the_arms_need_they_are_to_hold(node: Node, folder: Path) -> None:
    address = f"ipc://{folder}/expert"
    other = f"ipc://{folder}/planner"
    outlets = [Outlet("expert", (address,), 1), Outlet("planner", (other,), 1)]
    subscriptions = [Subscription("health/expert", address), Subscription("health/planner", other)]
    heard: list[Received] = []

    def overhear(said: Received) -> Received:
        heard.append(said._replace(header=said.header._replace(sequence=7)))
        return heard[-1]

    inlet = JoinedInlet(Inlet(subscriptions), RosInlet(node, []), Desk(), ("expert",), overhear)

    def connected() -> bool:
        inlet.drain()
        for outlet in outlets:
            outlet.poll()
        return all(outlet._heard_ns for outlet in outlets)

    until(connected)
    outlets[1].close()
    time.sleep(0.1)
    assert inlet.drain() == []  # without a planner the last intent may be lived out
    outlets[0].close()
    (received,) = until(inlet.drain)
    assert isinstance(received.message, OperatorCommand)
    assert (received.header.topic, received.message.action) == ("robot/operator", "hold")
    assert heard == [received], "what a process says to itself is recorded too, under the same header"
    assert received.message.lost == "expert has ended"
    inlet.close()


# ---------------------------------------------------------------- devices that other nodes drive


def test_an_arm_behind_a_driver_node(node: Node) -> None:
    names = profile("piper_ros2")._replace(gripper_unit_m=0.001)
    arm = RosArm("left", node, names, CLOCK, SafetyLimits())
    arm.open()
    assert arm.read(0) is None
    assert not arm.enable()
    with pytest.raises(DriverError, match="no driver node takes set-points"):
        arm.command(np.zeros(6), 0.0)
    state = node.create_publisher(JointState, "/joint_states_single_l", 10)
    taken = Taker(node, JointState, "/joint_states_l", qos.COMMAND)

    def heard() -> ArmState | None:
        state.publish(conversions.joint_state_of(arm_state(), names, CLOCK))
        return arm.read(0)

    assert until(heard).gripper_width_m == pytest.approx(0.03)
    assert arm.enable()

    def sent() -> list[Any]:
        arm.command(np.arange(6.0), 0.02)
        return list(taken.take())

    message = until(sent)[-1]
    assert list(message.name) == [f"joint{i}" for i in range(1, 8)]
    assert list(message.position) == pytest.approx([0, 1, 2, 3, 4, 5, 20.0])


def test_a_driver_node_of_another_kind_is_an_error(node: Node) -> None:
    arm = RosArm("left", node, profile("piper_ros2"), CLOCK, SafetyLimits())
    arm.open()
    state = node.create_publisher(JointState, "/joint_states_single_l", 10)
    until(state.get_subscription_count)
    state.publish(JointState(name=["wheel"], position=[0.0]))
    with pytest.raises(DriverError, match="joint1 is missing"):
        until(lambda: arm.read(0))


def test_cameras_behind_camera_nodes(node: Node) -> None:
    names = profile("piper_ros2")
    cameras = RosCameras(node, ("cam_high",), names, CLOCK)
    colour = node.create_publisher(Image, names.image["cam_high"], 10)
    depth = node.create_publisher(Image, names.depth["cam_high"], 10)
    until(lambda: colour.get_subscription_count() and depth.get_subscription_count())

    def image(encoding: str, bytes_per_pixel: int) -> Image:
        message = Image(height=4, width=6, encoding=encoding, step=6 * bytes_per_pixel)
        message.data.frombytes(bytes(range(24 * bytes_per_pixel)))
        message.header.stamp = CLOCK.to_ros(55)
        return message

    depth.publish(image("16UC1", 2))
    time.sleep(0.1)
    colour.publish(image("rgb8", 3))
    (frame,) = until(lambda: cameras.read(0))
    assert (frame.camera, frame.exposure_ns, frame.rgb.shape) == ("cam_high", 55, (4, 6, 3))
    assert frame.depth_mm is not None
    colour.publish(image("mono8", 1))
    with pytest.raises(DriverError, match=r"cam_high: Image\.encoding"):
        until(lambda: cameras.read(0))


def joy(axes: list[float], buttons: list[int]) -> Joy:
    message = Joy(axes=axes, buttons=buttons)
    message.header.stamp = CLOCK.to_ros(monotonic_ns())
    return message


def test_a_controller_behind_its_node_counts_as_sdl_does(node: Node) -> None:
    gamepad = RosGamepad(node, CLOCK)
    assert gamepad.read(0) is None
    publisher = node.create_publisher(Joy, JOY, 10)
    until(publisher.get_subscription_count)
    publisher.publish(joy([1.0, 0.5, 0.0, -1.0, 0.0, -0.25], [0] * 9 + [1] + [0] * 11))
    state = until(lambda: gamepad.read(0))
    assert list(state.axes) == [
        -1.0,
        -0.5,
        0.0,
        1.0,
        0.0,
        0.25,
    ]  # left and forward are negative, a pulled trigger is not
    assert refusal(state) is None
    assert state.buttons[DEADMAN]


def test_a_controller_that_says_nothing_any_more_is_unplugged(node: Node) -> None:
    """Empty arrays: during a takeover the arms hold, and the policy does not resume."""
    gamepad = RosGamepad(node, CLOCK)
    publisher = node.create_publisher(Joy, JOY, 10)
    until(publisher.get_subscription_count)
    publisher.publish(joy([0.0] * 6, [0] * 21))
    until(lambda: gamepad.read(0))
    publisher.publish(joy([], []))
    until(lambda: gamepad.read(0) is None)


def test_takeover_and_unplugging_over_joy(node: Node) -> None:
    """The teleop stage asks for an override while the deadman is held, and says so when the controller is lost."""
    run = msgspec.structs.replace(RunConfig(rig=load_rig("twin")), joystick=True)
    stage = teleop_stage(run, RosGamepad(node, CLOCK))
    publisher = node.create_publisher(Joy, JOY, 10)
    until(publisher.get_subscription_count)
    enabled = SafetyState(
        stamp_ns=0,
        mode=Mode.ENABLED,
        source=Source.POLICY,
        reasons=(),
        limited_joints=0,
        clamped_count=0,
        refused_count=0,
        arm_distance_m=0.5,
    )
    inbox = Inbox({"safety": Received(Header("safety", 1, 0, 0, 0), enabled, 0, tuple)}, ())

    def requests(message: Joy) -> list[str]:
        publisher.publish(message)
        time.sleep(0.02)
        return [
            e.message.mode_request for e in stage.step(monotonic_ns(), inbox) if isinstance(e.message, TeleopCommand)
        ]

    released, held = [0] * 21, [int(button == DEADMAN) for button in range(21)]
    until(lambda: requests(joy([0.0] * 6, released)) == ["none"])
    until(lambda: requests(joy([0.0] * 6, held)) == ["override"])
    until(lambda: requests(joy([], [])) == ["lost"])
    stage.close()
