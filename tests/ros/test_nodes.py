"""The nodes as processes on the twin: lifecycle, services, and what happens when one of them dies."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosbags.highlevel import AnyReader
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from syvla.apps.replay_verify import verify
from syvla.control.gamepad import DEADMAN, Button
from syvla.messages import ActionChunk, JointCommand, Mode, OperatorCommand, SafetyState, Source
from syvla.recording.mcap_read import Recording, read
from syvla.report.episode import load
from syvla_ros import conversions, qos
from syvla_ros.bag import bag_folder
from syvla_ros.bench import JoyController
from syvla_ros.bringup import ARGUMENTS, NodePlan, plan
from syvla_ros.clock import RosClock
from syvla_ros.routes import CHUNK

SLACK_S = 0.05  # of a noisy machine, beyond the deadlines of the fault table
START_S = 40.0
RIGS = Path(__file__).parents[2] / "calibration" / "rigs"


class Robot:
    """A run of nodes on the twin, and a node that talks to it."""

    def __init__(self, node: Node, parent: Path, bags: bool = False, **changes: str) -> None:
        values = {**{a.name: a.default for a in ARGUMENTS}, "sim": "true", "policy": "reference", "enable": "false"}
        self.plan = plan({**values, "runs": str(parent), **changes})
        rig = self.plan.run.rig
        rig = msgspec.structs.replace(rig, ros=msgspec.structs.replace(rig.ros, bags=bags))
        self.plan.folder.save(msgspec.structs.replace(self.plan.run, rig=rig))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.said = ""  # the gate's last word
        self._node = node
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, qos.STATUS)
        self._clients: dict[str, Any] = {}

    def _hear(self, message: DiagnosticArray) -> None:
        self.said = message.status[0].message

    def start(self, node: NodePlan) -> None:
        """As a launch does."""
        code = f"from syvla_ros import main; main.{node.executable}()"
        with (self.plan.folder.logs / f"{node.executable}.log").open("ab") as log:
            self.processes[node.executable] = subprocess.Popen(
                [sys.executable, "-c", code, *node.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.plan.environment, "PYTHONPATH": ":".join(sys.path)},
            )

    def node(self, name: str) -> NodePlan:
        return next(node for node in self.plan.nodes if node.executable == name)

    def log(self, name: str) -> str:
        return (self.plan.folder.logs / f"{name}.log").read_text()

    def call(self, kind: Any, name: str, **fields: Any) -> Any:
        """What a service answers."""
        client = self._clients.setdefault(name, self._node.create_client(kind, f"/syvla/{name}"))
        assert client.wait_for_service(START_S), name
        future = client.call_async(kind.Request(**fields))
        self._executor.spin_until_future_complete(future, timeout_sec=20.0)
        assert future.done(), f"{name} did not answer"
        return future.result()

    def change(self, transition: int) -> bool:
        return bool(self.call(ChangeState, "robot/change_state", transition=Transition(id=transition)).success)

    def state(self) -> int:
        return int(self.call(GetState, "robot/get_state").current_state.id)

    def until(self, condition: Callable[[], Any], limit_s: float = START_S) -> Any:
        end_s = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < end_s, f"the gate last said: {self.said}"
            self._executor.spin_once(timeout_sec=0.02)
        return found

    def says(self, words: str, limit_s: float = START_S) -> None:
        """Wait until the gate says ``words``, and no more if nothing is to be said beside them."""
        self.until(lambda: words in self.said, limit_s)

    def interrupt(self) -> dict[str, int]:
        """Ctrl-C: every process at once; how each ended."""
        for process in self.processes.values():
            process.send_signal(signal.SIGINT)
        return {name: process.wait(10) for name, process in self.processes.items()}

    def knows(self, name: str) -> bool:
        """Whether a node is there: it is once its stage is built."""
        return name in {known for known, _ in self._node.get_node_names_and_namespaces()}

    def recording(self) -> Path:
        folder = self.plan.folder.recordings
        (path,) = set(folder.glob("*.mcap*")) - set(folder.glob("fault-*"))  # of a hold before it began
        return path


@contextlib.contextmanager
def brought_up(node: Node, parent: Path, bags: bool = False, **changes: str) -> Iterator[Robot]:
    robot = Robot(node, parent, bags, **changes)
    try:
        for each in robot.plan.nodes:
            robot.start(each)
        yield robot
    finally:
        for process in robot.processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(robot.plan.run.bus_folder, ignore_errors=True)


def standing_chunk() -> ActionChunk:
    """A chunk in the past, which nobody executes."""
    return ActionChunk(
        chunk_id=1,
        task_id=1,
        intent_id=1,
        intent_observation_ns=0,
        observation_ns=0,
        period_ns=33_333_333,
        position_rad=np.zeros((1, 12), "f4"),
        gripper_width_m=np.zeros((1, 2), "f4"),
        inference_delay_steps=0,
    )


def held_after_s(path: Path, fault_ns: int) -> float:
    """When the gate held, after the fault."""
    for recorded in read(path):
        message = recorded.message
        if isinstance(message, SafetyState) and message.stamp_ns >= fault_ns and message.mode is Mode.HOLD:
            return (message.stamp_ns - fault_ns) / 1e9
    raise AssertionError("the arms were never held")


def moved(path: Path, since_ns: int, until_ns: int) -> bool:
    """Whether the policy commanded in between."""
    return any(
        isinstance(m := recorded.message, JointCommand)
        and since_ns < m.commanded_ns < until_ns
        and m.provenance.source is Source.POLICY
        for recorded in read(path)
    )


def test_the_robots_lifecycle_and_the_operators_services(node: Node, tmp_path: Path) -> None:
    with brought_up(node, tmp_path, record="true") as robot:
        robot.until(lambda: robot.state() == State.PRIMARY_STATE_INACTIVE)
        robot.says("disabled")
        for name in ("planner", "expert"):  # enabled arms do not wait long for a first chunk
            robot.until(partial(robot.knows, name))
        assert robot.call(SetBool, "enable", data=True).success
        robot.until(lambda: robot.said == "enabled")
        assert robot.state() == State.PRIMARY_STATE_ACTIVE
        assert "hold; operator_hold" in robot.call(Trigger, "hold").message
        robot.says("hold: the operator asked for it")
        assert robot.state() == State.PRIMARY_STATE_ACTIVE
        assert robot.call(Trigger, "resume").success
        robot.until(lambda: robot.said == "enabled")
        assert robot.change(Transition.TRANSITION_DEACTIVATE)
        robot.says("hold: the operator asked for it")
        assert robot.call(SetBool, "enable", data=True).success is False  # an inactive robot is activated, or resumed
        assert robot.change(Transition.TRANSITION_ACTIVATE)
        robot.until(lambda: robot.said == "enabled")

        # A second node that publishes chunks: nobody could say who commands.
        second = node.create_publisher(JointTrajectory, CHUNK, qos.COMMAND)
        chunk = conversions.trajectory_of(standing_chunk(), RosClock(robot.plan.run.wall_offset_ns))

        def noticed() -> bool:
            second.publish(chunk)
            return "more than one node publishes chunks" in robot.said

        robot.until(noticed, 5.0)
        answer = robot.call(Trigger, "resume")
        assert (answer.success, answer.message) == (False, "more than one node publishes chunks")
        robot.until(lambda: robot.call(Trigger, "resume").success, 5.0)
        robot.until(lambda: robot.said == "enabled")

        # Ctrl-C reaches all at once: the arms stand before the twin and the recorder go.
        assert set(robot.interrupt().values()) == {0}
        recorded = [r.message for r in read(robot.recording())]
        asked = [m.action for m in recorded if isinstance(m, OperatorCommand)]
        assert [action for action, _ in itertools.groupby(asked)][:4] == ["enable", "hold", "resume", "hold"]
        commands = [m for m in recorded if isinstance(m, JointCommand)]
        assert commands[-1].provenance.source is Source.HOLD
        assert abs(commands[-1].position_rad - commands[-2].position_rad).max() < 1e-6


def test_episodes_begin_and_end_by_services_and_become_bags(node: Node, tmp_path: Path) -> None:
    """Each end once had a name of its own, the time of the call, and an episode of another name was not ended."""
    with brought_up(node, tmp_path, bags=True, record="true", enable="true") as robot:
        robot.until(lambda: robot.said == "enabled")
        ended = robot.call(Trigger, "record/failure")
        assert ended.success
        assert "the last one is failure: " in ended.message
        nothing = robot.call(Trigger, "record/discard")
        assert (nothing.success, "nothing is being recorded" in nothing.message) == (False, True)
        begun = robot.call(Trigger, "record/start")
        assert (begun.success, "recording /" in begun.message) == (True, True)
        for name in ("", "hold", "resume"):  # what is asked is recorded as the robot heard it
            assert not name or robot.call(Trigger, name).success
            wait_s = time.monotonic() + 1.5
            robot.until(lambda: time.monotonic() > wait_s)  # noqa: B023 - called at once
        assert robot.call(Trigger, "record/success").success
        paths = sorted(robot.plan.folder.recordings.glob("*.mcap"))
        assert [Recording(path).outcome["outcome"] for path in paths] == ["failure", "success"]
        robot.until(lambda: all(bag_folder(path).is_dir() for path in paths))
    (again,) = verify(Recording(paths[1]), ("robot",), lambda _: None)
    assert (again.gaps, again.differing, again.first) == (0, 0, "")
    assert again.seconds > 3.0
    with AnyReader([bag_folder(paths[1])]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    assert counts["/syvla/left/joint_states"] > 200
    assert counts["/syvla/right/joint_command"] > 200


def test_a_killed_expert_holds_the_arms_and_one_started_again_does_not_move_them(node: Node, tmp_path: Path) -> None:
    with brought_up(node, tmp_path, record="true", enable="true") as robot:
        robot.until(lambda: robot.said == "enabled")
        fault_ns = time.monotonic_ns()
        robot.processes["expert"].kill()
        robot.processes["expert"].wait()
        robot.says("hold: expert has ended", 5.0)
        robot.start(robot.node("expert"))
        again_s = time.monotonic() + 4.0
        robot.until(lambda: time.monotonic() > again_s)
        robot.says("hold: expert has ended")
        assert robot.call(Trigger, "resume").success
        resumed_ns = time.monotonic_ns()
        robot.until(lambda: robot.said == "enabled")
        robot.interrupt()
        assert held_after_s(robot.recording(), fault_ns) < 0.1 + SLACK_S
        assert not moved(robot.recording(), fault_ns + 300_000_000, resumed_ns - 1_100_000_000)


def test_a_person_takes_over_from_the_policy_and_gives_back(node: Node, tmp_path: Path) -> None:
    """The whole graph, with /joy in the place of our own controller."""
    rig = tmp_path / "joy.toml"
    rig.write_text((RIGS / "twin.toml").read_text() + '\n[ros]\njoystick = "ros"\n')
    with brought_up(node, tmp_path, rig=str(rig), joystick="true", record="true", enable="true") as robot:
        controller = JoyController(node, RosClock(robot.plan.run.wall_offset_ns))
        repeating = threading.Thread(target=controller.repeat, daemon=True)
        repeating.start()

        def passed(seconds: float) -> None:
            end_s = time.monotonic() + seconds
            robot.until(lambda: time.monotonic() > end_s)

        for _ in range(3):  # on a busy machine the first intents may grow too old, which is not what is tried here
            robot.until(lambda: robot.said == "enabled")
            passed(4.0)  # the policy is on its way
            if robot.said == "enabled":
                break
            assert robot.call(Trigger, "resume").success
        controller.press(DEADMAN)
        robot.until(lambda: robot.said == "override", 2.0)
        passed(1.0)
        controller.release(DEADMAN)
        passed(0.2)
        assert robot.said == "override", "who lets go of the deadman has not given back"
        returned_ns = time.monotonic_ns()
        controller.press(Button.START)
        passed(0.1)
        controller.release(Button.START)
        robot.until(lambda: robot.said == "enabled", 2.0)
        passed(2.0)
        robot.interrupt()
        controller.close()
        repeating.join()
        episode = load(robot.recording())
    (taken,) = episode.interventions
    assert 1.0 < (taken.end_ns - taken.start_ns) / 1e9 < 3.0
    commands = episode.commands
    before, after = commands.at_ns < taken.start_ns, commands.at_ns > taken.end_ns
    for part in (before, after):
        assert (commands.source[part] == Source.POLICY.value).sum() > 100
    speed_rad_s = np.abs(np.diff(commands.position_rad, axis=0)).reshape(-1, 2, 6)
    speed_rad_s /= (np.diff(commands.at_ns) / 1e9)[:, None, None]
    most_rad_s = np.array(robot.plan.run.rig.safety.velocity_rad_s)
    assert (speed_rad_s <= most_rad_s * 1.001).all(), "neither takeover nor return is a jump"
    observed_ns = {chunk.chunk_id: chunk.observation_ns for chunk in episode.chunks}
    used = {int(chunk) for chunk in commands.chunk_id[after & (commands.source == Source.POLICY.value)]}
    assert min(observed_ns[chunk] for chunk in used) >= returned_ns


def test_a_robot_node_that_died_comes_back_disabled(node: Node, tmp_path: Path) -> None:
    with brought_up(node, tmp_path, enable="true") as robot:
        robot.until(lambda: robot.said == "enabled")
        robot.processes["robot"].kill()
        robot.processes["robot"].wait()
        robot.said = ""
        robot.start(robot.node("robot"))
        robot.says("disabled")
        again_s = time.monotonic() + 2.0
        robot.until(lambda: time.monotonic() > again_s)
        assert "disabled" in robot.said
        assert robot.state() == State.PRIMARY_STATE_INACTIVE


def test_without_arms_the_robot_is_not_configured_and_says_why(node: Node, tmp_path: Path) -> None:
    robot = Robot(node, tmp_path)
    real = msgspec.structs.replace(robot.plan.run.rig, kind="cobot_magic")
    robot.plan.folder.save(msgspec.structs.replace(robot.plan.run, rig=real))
    try:
        robot.start(robot.node("robot"))
        robot.until(lambda: "not configured" in robot.log("robot"))
        assert "as shipped, not measured: left.base_position_m" in robot.log("robot")
        assert "no feedback from the left and the right arm" in robot.log("robot")
        assert robot.state() == State.PRIMARY_STATE_UNCONFIGURED
        assert robot.interrupt() == {"robot": 0}
    finally:
        robot.processes["robot"].kill()
        shutil.rmtree(robot.plan.run.bus_folder, ignore_errors=True)
