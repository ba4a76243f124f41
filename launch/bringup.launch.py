"""``ros2 launch syvla bringup.launch.py``: every stage as a node. ``--show-args`` tells the arguments.

Ctrl-C holds the arms with torque on and then ends the nodes. A node that dies is told with its cause and started
again; the arms hold meanwhile and until an operator resumes them (service /syvla/resume).
"""

import atexit
import shutil

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from syvla_ros.bringup import ARGUMENTS, NodePlan, plan

RESPAWN_DELAY_S = 2.0


def generate_launch_description() -> LaunchDescription:
    """The arguments, and what is brought up with them."""
    declared = [DeclareLaunchArgument(a.name, default_value=a.default, description=a.description) for a in ARGUMENTS]
    return LaunchDescription([*declared, OpaqueFunction(function=_bring_up)])


def _bring_up(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    made = plan({a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS})
    atexit.register(shutil.rmtree, made.run.bus_folder, ignore_errors=True)  # when every node has ended
    actions: list[LaunchDescriptionEntity] = [LogInfo(msg=f"run folder: {made.folder.path}")]
    for node in made.nodes:
        action = Node(
            package="syvla",
            executable=node.executable,
            arguments=list(node.arguments),
            output="both",
            respawn=node.respawn,
            respawn_delay=RESPAWN_DELAY_S,
            additional_env=dict(made.environment),
        )
        actions += [action, RegisterEventHandler(OnProcessExit(target_action=action, on_exit=_say_why(node)))]
    return actions


def _say_why(node: NodePlan):  # noqa: ANN202 - launch's own type of handler
    """What is said when a node ended that was not told to."""

    def exited(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        if context.is_shutdown:
            return []
        how = f"was killed by signal {-event.returncode}" if event.returncode < 0 else f"ended with {event.returncode}"
        if node.respawn:
            told = f"{node.executable} {how}: it is started again; arms that hold for it do so until they are resumed"
            return [LogInfo(msg=told)]
        return [EmitEvent(event=Shutdown(reason=f"{node.executable} {how}"))]

    return exited
