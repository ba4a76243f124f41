"""ROS on this machine alone, in a domain of this test process's own."""

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)

import rclpy
from rclpy.node import Node


@pytest.fixture
def node() -> Iterator[Node]:
    """A node."""
    rclpy.init()
    made = Node("test")
    yield made
    made.destroy_node()
    rclpy.try_shutdown()
