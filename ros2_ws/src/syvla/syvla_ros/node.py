"""A stage as a ROS node: the process host of the bus, with ROS on what has a standard message."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import rclpy
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from syvla.config import RunConfig
from syvla.hosts.process import ProcessHost, stop_with_parent
from syvla.messages import ARMS
from syvla.policies import policy_cameras
from syvla.profiles import TopicProfile, profile
from syvla.protocols import Received, Stage
from syvla.rig import ask_realtime, build_stage, open_bus, robot_stage, stage_host, teleop_stage
from syvla.runs import RunFolder
from syvla.stages.cameras import CamerasStage
from syvla.topics import CAMERAS, topic
from syvla_ros.clock import RosClock
from syvla_ros.ends import Desk, JoinedInlet, JoinedOutlet, RosInlet, RosOutlet
from syvla_ros.foreign import RosArm, RosCameras, RosGamepad
from syvla_ros.routes import routes

NAMESPACE = "syvla"
Furnish = Callable[[Node, ProcessHost], None]
# What a stage reads over ROS, where anybody may be the publisher. Images stay on the bus: raw over ROS a frame of
# 640x480 takes 13 ms or is lost, as JPEG it costs the encoding, and on the bus 0.6 ms. A recorder, which must miss
# nothing, reads the bus.
OVER_ROS = frozenset({"arm/left", "arm/right", "chunk", "task"})
OVER_ROS_LOSSLESS = frozenset({"task"})
SWITCH_S = 0.0005  # so long a thread that serves ROS may keep the stage's waiting; 5 ms by default
POLL_HZ = 200.0  # how often another node's cameras are looked at


def run_profile(run: RunConfig) -> TopicProfile:
    """The names and units of a run's rig."""
    config = run.rig.ros
    names = profile(config.profile)
    return names if config.gripper_unit_m is None else names._replace(gripper_unit_m=config.gripper_unit_m)


def init_ros(arguments: list[str] | None = None) -> None:
    """Start ROS in this process; signals stay with the process host."""
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)


def join(
    run: RunConfig, stage: Stage, node: Node, desk: Desk, watched: Sequence[str] = (), held_for: Sequence[str] = ()
) -> tuple[JoinedInlet, JoinedOutlet]:
    """The ends of ``stage`` on both bus and ROS.

    The health of the processes ``watched`` is heard too; if one of ``held_for`` ends, the arms are to hold.
    """
    table = routes(run_profile(run), RosClock(run.wall_offset_ns), run.rig.ros.jpeg_quality)
    over_ros = OVER_ROS_LOSSLESS if stage.lossless else OVER_ROS
    reads = [name for name in stage.reads if name not in over_ros]
    health = [f"health/{name}" for name in watched]
    inlet, outlet = open_bus(run, stage.name, [*reads, *health], stage.lossless)
    read = [route for route in table if route.topic in over_ros and route.topic in stage.reads]
    written = [route for route in table if route.topic in stage.writes]
    joined = JoinedOutlet(outlet, RosOutlet(node, written))

    def overhear(said: Received) -> Received:
        return joined.said(said) if topic(said.header.topic).writer == stage.name else said

    return JoinedInlet(inlet, RosInlet(node, read), desk, held_for, overhear, health), joined


@contextlib.contextmanager
def spun_beside(executor: Executor) -> Iterator[None]:
    """Serve what ROS asks in threads beside the stage; a node that cannot hear any more ends and says why."""

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return
        except BaseException:
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    thread = threading.Thread(target=spin, name="ros")
    thread.start()
    try:
        yield
    finally:
        rclpy.try_shutdown()  # which ends the executor's wait
        thread.join()


def ros_stage(name: str, run: RunConfig, folder: RunFolder, node: Node) -> Stage:
    """Stage ``name`` of a run; where the rig says so, over devices that other nodes drive."""
    names, clock = run_profile(run), RosClock(run.wall_offset_ns)
    if name == "robot" and run.rig.ros.arms == "ros":
        limits = run.rig.safety
        return robot_stage(run, {arm: RosArm(arm, node, names, clock, limits) for arm in ARMS})
    if name == "cameras" and run.rig.ros.cameras == "ros":
        cameras = policy_cameras(run) or CAMERAS
        source = RosCameras(node, cameras, names, clock)
        return CamerasStage(source, run.rig.cameras, cameras, cameras, poll_hz=POLL_HZ)
    if name == "teleop" and run.rig.ros.joystick == "ros":
        return teleop_stage(run, RosGamepad(node, clock))
    return build_stage(name, run, folder)


def _bare(node: Node, host: ProcessHost) -> None:
    """A node without services."""


def run_node(name: str, folder: RunFolder, desk: Desk | None = None, furnish: Furnish = _bare) -> None:
    """Be the node of stage ``name`` of the run in ``folder`` until it is told to stop, or its parent dies.

    Args:
        name: One of the stages of a run.
        folder: The run's folder.
        desk: What this process says to its own stage.
        furnish: Gives the node its services, if it has any; they are served beside the stage.
    """

    def build(run: RunConfig, node: Node) -> Stage:
        return ros_stage(name, run, folder, node)

    serve_node(name, folder, build, desk or Desk(), furnish)


def serve_node(
    name: str, folder: RunFolder, build: Callable[[RunConfig, Node], Stage], desk: Desk, furnish: Furnish
) -> None:
    """The same for the stage that ``build`` makes."""
    run = folder.load()
    sys.setswitchinterval(SWITCH_S)
    stop_with_parent(os.getppid())
    realtime = ask_realtime(name, run.rig.realtime)
    init_ros()  # only now: its threads inherit the scheduling that was asked for before
    node = Node(name, namespace=NAMESPACE, start_parameter_services=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with spun_beside(executor):
        stage = build(run, node)
        inlet, outlet = join(run, stage, node, desk)
        host = stage_host(name, run, stage, inlet, outlet, realtime)
        furnish(node, host)
        host.run()
