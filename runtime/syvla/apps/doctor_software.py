"""The doctor looks at what runs: the twin's packages, ROS 2, the policy's checkpoint, the rig's calibration."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from syvla.apps.finding import Finding, missing, ok, problem, warning
from syvla.apps.machine import Machine
from syvla.config import RigConfig
from syvla.digest import file_sha256
from syvla.errors import ConfigError
from syvla.extras import LEARN_PACKAGES, SIM_PACKAGES
from syvla.messages import ARMS
from syvla.policies import PolicyLabel, best_backend, policy_folder, policy_label
from syvla.runs import load_rig

_EXPERT_FILE = "expert.safetensors"  # all of the policy that a robot PC must carry
_RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
_BEFORE_RANGES = ("foxy", "galactic", "humble")  # these know ROS_LOCALHOST_ONLY only


def twin_findings(machine: Machine, rig: RigConfig) -> Iterator[Finding]:
    """The simulator, for a rig that is simulated."""
    absent = [name for name in SIM_PACKAGES if machine.package(name, name) is None]
    fix = "pip install 'syvla[sim]'"
    if absent:
        yield missing("twin.packages", f"{', '.join(absent)} missing", fix, needed=rig.kind == "twin")
    else:
        yield ok("twin.packages", f"MuJoCo {machine.package('mujoco', 'mujoco')}")


# ---------------------------------------------------------------- ROS 2


class _Ros(msgspec.Struct, frozen=True):
    rmw: str
    distro: str
    launch: bool


_ASK_ROS = """
import importlib.metadata, importlib.util, json, os, rclpy
from rclpy.utilities import get_rmw_implementation_identifier
wheels = (d.metadata["Name"] or "" for d in importlib.metadata.distributions())
wheel = next((name.split("-")[1] + " (wheels)" for name in wheels
              if name.startswith("ros-") and name.endswith("-rclpy") and name.count("-") == 2), "")
print(json.dumps(dict(
    rmw=get_rmw_implementation_identifier(),
    distro=os.environ.get("ROS_DISTRO") or wheel,
    launch=all(importlib.util.find_spec(name) for name in ("launch", "launch_ros")),
)))
"""


def ros_findings(machine: Machine, rig: RigConfig) -> Iterator[Finding]:
    """Which ROS 2 there is, what carries its messages, and who may hear them. A real robot is launched by it."""
    needed = rig.kind != "twin"
    installed = [path.parent.name for path in machine.glob("/opt/ros/*/setup.bash")]
    source = f"source /opt/ros/{installed[-1]}/setup.bash" if installed else "install ROS 2 Humble, Jazzy or Kilted"
    if machine.package("rclpy", "rclpy") is None:
        yield missing("ros.rclpy", "rclpy is not importable", source, needed=needed)
        return
    answer = machine.python(_ASK_ROS)
    ros = answer.decode(_Ros)
    if ros is None:
        yield missing("ros.rclpy", f"rclpy does not load: {answer.error or 'no answer'}", source, needed=needed)
        return
    yield ok("ros.rclpy", f"ROS 2 {ros.distro or 'of unknown distribution'}, {ros.rmw}")
    if ros.launch:
        yield ok("ros.launch", "launch and launch_ros are importable")
    else:
        yield missing("ros.launch", "launch or launch_ros is not importable", source, needed=needed)
    yield transport(ros.rmw, machine.environment)
    yield discovery(ros.distro, machine.environment)


def transport(rmw: str, environment: Mapping[str, str]) -> Finding:
    """What carries ROS messages. The runtime publishes compressed images, which any transport carries."""
    name = "ros.transport"
    if rmw != "rmw_fastrtps_cpp":
        return warning(name, f"{rmw}: tried with Fast DDS only", "export RMW_IMPLEMENTATION=rmw_fastrtps_cpp")
    chosen = environment.get("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")
    if "FASTRTPS_DEFAULT_PROFILES_FILE" in environment or "FASTDDS_DEFAULT_PROFILES_FILE" in environment:
        return ok(name, "Fast DDS with a profiles file of your own")
    return ok(name, f"Fast DDS, transports {chosen} (raw images between processes need LARGE_DATA)")


def discovery(distro: str, environment: Mapping[str, str]) -> Finding:
    """Who on the network can find, hear and command these nodes."""
    name = "ros.discovery"
    if distro.split(" ")[0] in _BEFORE_RANGES:
        if environment.get("ROS_LOCALHOST_ONLY") == "1":
            return ok(name, "ROS_LOCALHOST_ONLY=1")
        return warning(name, "every machine of this network can command the arms", "export ROS_LOCALHOST_ONLY=1")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
    fix = "export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST"
    if reach in ("LOCALHOST", "OFF"):
        return ok(name, f"ROS_AUTOMATIC_DISCOVERY_RANGE={reach}")
    if reach is not None and reach not in _RANGES:
        return warning(name, f"ROS_AUTOMATIC_DISCOVERY_RANGE={reach} is none of {', '.join(_RANGES)}", fix)
    said = f"ROS_AUTOMATIC_DISCOVERY_RANGE is {reach or 'not set'}"
    return warning(name, f"{said}: every machine of this network can command the arms", fix)


# ---------------------------------------------------------------- checkpoint


def checkpoint_findings(machine: Machine, rig: RigConfig, policy: str) -> Iterator[Finding]:
    """The policy: its label, whom it was made for, its weights by their digests, and what runs it."""
    if policy == "reference":
        if rig.kind == "twin":
            yield ok("checkpoint.label", "the reference policy, which knows the simulated table")
        else:
            yield problem("checkpoint.label", "the reference policy acts on the twin only", "give --policy FOLDER")
        return
    try:
        folder = policy_folder(policy)
        label = policy_label(folder)
    except ConfigError as error:
        yield problem("checkpoint.label", str(error), "copy its folder here again, or give --policy FOLDER")
        return
    if label.rig == rig.name:
        yield ok("checkpoint.label", f"{label.model_id} in {folder}")
    else:
        seen = f"{label.model_id} was made for rig {label.rig!r}, not {rig.name!r}"
        yield warning("checkpoint.label", seen, "give --policy FOLDER of one that was made for this rig")
    yield weights(folder, label)
    try:
        backend = best_backend(folder)
    except ConfigError as error:
        yield problem("checkpoint.backend", str(error), f"syvla-export {folder}, or give --backend eager")
        backend = "eager"
    else:
        yield ok("checkpoint.backend", f"chunks are computed by {backend}")
    absent = [package for package in LEARN_PACKAGES if machine.package(package, package) is None]
    fix = "pip install 'syvla[learn]'"
    if not absent:
        yield ok("checkpoint.packages", ", ".join(LEARN_PACKAGES))
    elif backend == "eager":
        yield problem("checkpoint.packages", f"{', '.join(absent)} missing", fix)
    else:
        seen = f"{', '.join(absent)} missing, which a planner needs"
        yield warning("checkpoint.packages", seen, f"nothing to do if the planner runs on another machine; else {fix}")


def weights(folder: Path, label: PolicyLabel) -> Finding:
    """The weight files against their digests. A machine that only executes need not carry the planner's."""
    name = "checkpoint.weights"
    fix = f"copy the file into {folder} again"
    if _EXPERT_FILE not in label.sha256:
        return problem(name, f"syvla.json has no digest of {_EXPERT_FILE}", f"copy {folder} again")
    if strange := [file for file in label.sha256 if Path(file).name != file]:
        return problem(name, f"syvla.json names {strange[0]!r}, which is no file of its folder", f"copy {folder} again")
    absent = [file for file in label.sha256 if not (folder / file).is_file()]
    if _EXPERT_FILE in absent:
        return problem(name, f"{_EXPERT_FILE} is missing", fix)
    for file, expected in label.sha256.items():
        if file not in absent and (found := file_sha256(folder / file)) != expected:
            return problem(name, f"{file} has sha256 {found[:12]}..., syvla.json says {expected[:12]}...", fix)
    if absent:
        seen = f"the expert's are right, of the planner's {', '.join(absent)} missing"
        return warning(name, seen, "nothing to do if the planner runs on another machine; else copy them here")
    return ok(name, f"{len(label.sha256)} files are what syvla.json says")


# ---------------------------------------------------------------- calibration


def calibration_findings(rig: RigConfig) -> Iterator[Finding]:
    """The rig file, which has been read, and which of its numbers nobody has measured."""
    yield ok("calibration.rig", f"rig {rig.name!r}, a {rig.kind}")
    if rig.kind == "twin":
        yield ok("calibration.measured", "the twin is what its file says")
        return
    unmeasured = unmeasured_keys(rig, load_rig("cobot_magic"))
    if unmeasured:
        seen = f"as shipped, not measured: {', '.join(unmeasured)}"
        fix = "measure them on this robot and write them into a rig file of its own, given as --rig FILE.toml"
        yield warning("calibration.measured", seen, fix)
    else:
        yield ok("calibration.measured", "bases and delays are not the shipped ones")


def unmeasured_keys(rig: RigConfig, shipped: RigConfig) -> list[str]:
    """The keys of ``rig`` that belong to one robot and still have the value of the ``shipped`` rig."""
    pairs = (
        *(
            (f"{arm}.{name}", getattr(getattr(rig, arm), name), getattr(getattr(shipped, arm), name))
            for arm in ARMS
            for name in ("base_position_m", "feedback_delay_s", "actuation_delay_s", "gripper_delay_s")
        ),
        ("cameras.delay_s", rig.cameras.delay_s, shipped.cameras.delay_s),
    )
    return [key for key, own, default in pairs if own == default]
