"""The doctor on software: ROS 2, the checkpoint's weights, the numbers that nobody has measured."""

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from tests.apps.made_up import made_up, put

from syvla.apps import doctor_software
from syvla.apps.doctor_software import (
    calibration_findings,
    checkpoint_findings,
    discovery,
    ros_findings,
    transport,
    twin_findings,
    unmeasured_keys,
    weights,
)
from syvla.apps.finding import Finding, State
from syvla.apps.machine import Answer
from syvla.errors import ConfigError
from syvla.extras import LEARN_PACKAGES
from syvla.policies import PolicyLabel
from syvla.runs import load_rig

TWIN, ROBOT = load_rig("twin"), load_rig("cobot_magic")
LEARN = dict.fromkeys(LEARN_PACKAGES, "1")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_only_the_twin_needs_the_simulator(tmp_path: Path) -> None:
    assert [next(twin_findings(made_up(tmp_path), rig)).state for rig in (TWIN, ROBOT)] == [
        State.PROBLEM,
        State.NOT_HERE,
    ]


# ---------------------------------------------------------------- ROS 2


def ros_answer(launch: bool = True) -> Answer:
    return Answer(0, json.dumps({"rmw": "rmw_fastrtps_cpp", "distro": "jazzy", "launch": launch}))


def test_a_robot_needs_ros_and_its_launch(tmp_path: Path) -> None:
    for machine, name in (
        (made_up(tmp_path), "ros.rclpy"),
        (made_up(tmp_path, {"rclpy": Answer(1, error="ImportError: librcl.so")}, {"rclpy": "9"}), "ros.rclpy"),
        (made_up(tmp_path, {"rclpy": ros_answer(launch=False)}, {"rclpy": "9"}), "ros.launch"),
    ):
        assert by_name(list(ros_findings(machine, ROBOT)))[name].state is State.PROBLEM
        assert by_name(list(ros_findings(machine, TWIN)))[name].state is State.NOT_HERE
    whole = made_up(tmp_path, {"rclpy": ros_answer()}, {"rclpy": "9"}, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"})
    assert {finding.state for finding in ros_findings(whole, ROBOT)} == {State.OK}


def test_a_ros_that_is_installed_only_wants_sourcing(tmp_path: Path) -> None:
    put(tmp_path, "opt/ros/jazzy/setup.bash", "")
    (finding,) = ros_findings(made_up(tmp_path), ROBOT)
    assert finding.fix == "source /opt/ros/jazzy/setup.bash"


@pytest.mark.parametrize(
    ("distro", "environment", "state"),
    [
        ("jazzy", {}, State.WARNING),
        ("jazzy", {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, State.OK),
        ("kilted (wheels)", {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, State.OK),
        ("jazzy", {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, State.WARNING),
        ("jazzy", {"ROS_AUTOMATIC_DISCOVERY_RANGE": "localhost"}, State.WARNING),
        ("humble", {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, State.WARNING),
        ("humble", {"ROS_LOCALHOST_ONLY": "1"}, State.OK),
        ("", {}, State.WARNING),
    ],
)
def test_arms_that_a_network_can_command_are_a_warning(distro: str, environment: dict[str, str], state: State) -> None:
    assert discovery(distro, environment).state is state


def test_another_middleware_is_a_warning() -> None:
    assert transport("rmw_cyclonedds_cpp", {}).state is State.WARNING
    assert "LARGE_DATA" in transport("rmw_fastrtps_cpp", {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}).seen


# ---------------------------------------------------------------- checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("expert.safetensors", "planner.safetensors", "model.safetensors"):
        put(tmp_path, name, name)
    return tmp_path


def label(folder: Path) -> PolicyLabel:
    sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    return PolicyLabel("tiny@1", "twin", sha256)


def test_whole_weights_are_right(folder: Path) -> None:
    assert weights(folder, label(folder)).state is State.OK


@pytest.mark.parametrize("name", ["expert.safetensors", "model.safetensors"])
def test_a_weight_file_that_was_changed_is_a_problem(folder: Path, name: str) -> None:
    before = label(folder)
    put(folder, name, "something else")
    finding = weights(folder, before)
    assert (finding.state, name in finding.seen) == (State.PROBLEM, True)


def test_a_robot_may_lack_the_planners_weights_but_not_the_experts(folder: Path) -> None:
    before = label(folder)
    (folder / "model.safetensors").unlink()
    finding = weights(folder, before)
    assert (finding.state, "model.safetensors" in finding.seen) == (State.WARNING, True)
    (folder / "expert.safetensors").unlink()
    assert weights(folder, before).state is State.PROBLEM
    assert weights(folder, PolicyLabel("tiny@1", "twin", {})).state is State.PROBLEM


def test_a_label_that_names_files_elsewhere_is_refused_unread(folder: Path) -> None:
    outside = {**label(folder).sha256, "../secret": "0" * 64}
    finding = weights(folder, PolicyLabel("tiny@1", "twin", outside))
    assert (finding.state, "'../secret'" in finding.seen) == (State.PROBLEM, True)


def test_a_checkpoint_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    put(tmp_path, "syvla.json", "{}")
    (finding,) = checkpoint_findings(made_up(tmp_path), TWIN, str(tmp_path))
    assert (finding.name, finding.state) == ("checkpoint.label", State.PROBLEM)
    assert "syvla.json" in finding.seen


def test_the_shipped_checkpoint_is_whole_and_the_twins(tmp_path: Path) -> None:
    found = by_name(list(checkpoint_findings(made_up(tmp_path, packages=LEARN), TWIN, "learned")))
    assert {finding.state for finding in found.values()} == {State.OK}
    assert "syvla-tiny@" in found["checkpoint.label"].seen
    robot = by_name(list(checkpoint_findings(made_up(tmp_path), ROBOT, "learned")))
    assert robot["checkpoint.label"].state is State.WARNING
    assert robot["checkpoint.packages"].state is State.WARNING, "its chunks need no torch"


def test_a_robot_whose_chunks_need_no_torch_lacks_it_only_for_the_planner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_software, "best_backend", lambda folder: "eager")
    found = by_name(list(checkpoint_findings(made_up(tmp_path), TWIN, "learned")))
    assert found["checkpoint.packages"].state is State.PROBLEM
    monkeypatch.setattr(doctor_software, "best_backend", lambda folder: "onnxruntime")
    found = by_name(list(checkpoint_findings(made_up(tmp_path), TWIN, "learned")))
    assert found["checkpoint.backend"].seen == "chunks are computed by onnxruntime"
    assert found["checkpoint.packages"].state is State.WARNING

    def broken(folder: Path) -> str:
        raise ConfigError(f"{folder} was made from another expert")

    monkeypatch.setattr(doctor_software, "best_backend", broken)
    found = by_name(list(checkpoint_findings(made_up(tmp_path), TWIN, "learned")))
    assert (found["checkpoint.backend"].state, found["checkpoint.packages"].state) == (State.PROBLEM, State.PROBLEM)


def test_the_reference_policy_is_for_the_twin(tmp_path: Path) -> None:
    states = [next(checkpoint_findings(made_up(tmp_path), rig, "reference")).state for rig in (TWIN, ROBOT)]
    assert states == [State.OK, State.PROBLEM]


# ---------------------------------------------------------------- calibration


def test_numbers_that_are_still_the_shipped_ones_are_named() -> None:
    found = by_name(list(calibration_findings(ROBOT)))
    assert found["calibration.measured"].state is State.WARNING
    assert "left.base_position_m" in found["calibration.measured"].seen
    assert by_name(list(calibration_findings(TWIN)))["calibration.measured"].state is State.OK


def test_what_was_measured_is_no_longer_named() -> None:
    delays = {"feedback_delay_s": 0.004, "actuation_delay_s": 0.03, "gripper_delay_s": 0.05}
    left = msgspec.structs.replace(ROBOT.left, **delays)
    right = msgspec.structs.replace(ROBOT.right, **delays, base_position_m=(0.0, -0.31, 0.01))
    cameras = msgspec.structs.replace(ROBOT.cameras, delay_s={"cam_high": 0.02})
    rig = msgspec.structs.replace(ROBOT, left=left, right=right, cameras=cameras)
    assert unmeasured_keys(rig, ROBOT) == ["left.base_position_m"]
