"""The recorder's node: the services that begin and end an episode."""

import datetime
from collections.abc import Callable
from typing import Any, Literal

from rclpy.node import Node
from std_srvs.srv import Trigger

from syvla.clock import monotonic_ns
from syvla.hosts.process import ProcessHost
from syvla.messages import EpisodeControl
from syvla.runs import RunFolder
from syvla_ros.ends import Desk
from syvla_ros.node import run_node

ACTIONS: tuple[Literal["start", "success", "failure", "discard"], ...] = ("start", "success", "failure", "discard")


def run_recorder(folder: RunFolder, record: bool) -> None:
    """Be the recorder's node of the run in ``folder``; ``record``: begin an episode at once."""
    desk = Desk()

    def control(action: Literal["start", "success", "failure", "discard"]) -> EpisodeControl:
        name = datetime.datetime.now().astimezone().strftime("%H%M%S")
        said = EpisodeControl(action=action, name=name, issued_ns=monotonic_ns())
        desk.say("episode", said)
        return said

    def service(action: Literal["start", "success", "failure", "discard"]) -> Callable[[Any, Any], Any]:
        def answer(_: Any, response: Any) -> Any:
            response.success, response.message = True, f"{action} {control(action).name}"
            return response

        return answer

    def furnish(node: Node, host: ProcessHost) -> None:
        for action in ACTIONS:
            node.create_service(Trigger, f"record/{action}", service(action))

    if record:
        control("start")
    run_node("recorder", folder, desk, furnish)
