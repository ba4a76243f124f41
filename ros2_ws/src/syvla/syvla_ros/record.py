"""``ros2 run syvla record``: begins and ends episodes from the keyboard of a terminal."""

import time
from typing import Any

import rclpy
from rclpy.node import Node
from std_srvs.srv import Trigger

from syvla.apps.terminal import GONE, pressed_keys
from syvla.errors import ConfigError
from syvla_ros.node import NAMESPACE, init_ros
from syvla_ros.recorder_node import ACTIONS, Action

KEYS: dict[str, Action] = dict(zip("rsfd", ACTIONS, strict=True))
WORDS = "r begins an episode; s it is a success, f a failure, d discard it; q quits"
ANSWER_LIMIT_S = 5.0


def record() -> None:
    """Ask the recorder's services for what is typed, until q."""
    init_ros()
    node = rclpy.create_node("record", namespace=NAMESPACE)
    services: dict[Action, Any] = {action: node.create_client(Trigger, f"record/{action}") for action in ACTIONS}
    with pressed_keys() as keys:
        if keys is None:
            raise ConfigError("record reads keys: start it in a terminal, in its foreground")
        print(WORDS, flush=True)
        quitting = False
        while not quitting:
            for key in keys():
                quitting = quitting or key in ("q", GONE)
                if key in KEYS:
                    print(f"{KEYS[key]}: {_answer(node, services[KEYS[key]])}", flush=True)
            rclpy.spin_once(node, timeout_sec=0.05)
    rclpy.try_shutdown()


def _answer(node: Node, client: Any) -> str:
    if not client.wait_for_service(ANSWER_LIMIT_S):
        return "no recorder answers; is bringup.launch.py running?"
    future = client.call_async(Trigger.Request())
    until_s = time.monotonic() + ANSWER_LIMIT_S
    while not future.done() and time.monotonic() < until_s:
        rclpy.spin_once(node, timeout_sec=0.05)
    response = future.result() if future.done() else None
    if response is None:
        return "the recorder did not answer"
    return response.message if response.success else f"REFUSED: {response.message}"
