"""What a launch brings up: the arguments it takes, the run it makes of them, and the nodes. Knows nothing of launch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from syvla.config import RemotePlannerConfig, RunConfig
from syvla.errors import ConfigError
from syvla.hosts.supervisor import ONE_THREAD
from syvla.policies import default_policy
from syvla.runs import RunFolder, load_rig, realtime_run


class Argument(NamedTuple):
    """One argument of the launch, ``name:=value``."""

    name: str
    default: str
    description: str


ARGUMENTS = (
    Argument("rig", "cobot_magic", "a shipped rig, or the path of a rig file; with sim the twin's, if not given"),
    Argument("sim", "false", "true: the same graph on the twin, under the same SDKs"),
    Argument("instruction", "", "what is to be done, in words; with sim what the scene asks for, if not given"),
    Argument("task", "snack_loading", "with sim: whose things lie on the table"),
    Argument("split", "id", "with sim: where they lie"),
    Argument("seed", "0", "with sim: which table"),
    Argument("episodes", "0", "with sim: run so many from seed on, one after the other, and end"),
    Argument("policy", "", "reference, learned, or the folder of a checkpoint; the learned one, if not given"),
    Argument("backend", "auto", "what computes the chunks: auto, eager (torch), or one that syvla-export accepted"),
    Argument(
        "enable", "", "true: enable the arms by itself when both systems run; only with sim, and there the default"
    ),
    Argument("joystick", "false", "true: a person can take over with a game controller while the policy runs"),
    Argument("record", "false", "true: record from the start"),
    Argument("discovery", "localhost", "who finds the nodes: localhost, or subnet, where any machine may command them"),
    Argument("planner", "", "tcp://host:port where `syvla planner` runs the same policy; else it runs here"),
    Argument("keys", "", "the folder of keys for that planner (`syvla keys`)"),
    Argument("runs", "runs", "the folder in which the run gets a folder of its own"),
)
STAND_INS_S = {"reference": (0.3, 0.03)}  # latencies of the two systems where no model takes the time


class NodePlan(NamedTuple):
    """One node: its executable, what it is called with, and whether it is started again when it dies."""

    executable: str
    arguments: tuple[str, ...]
    respawn: bool = True


class Plan(NamedTuple):
    """One run, ready to be started; ``environment`` is what its nodes are given beside the shell's."""

    folder: RunFolder
    run: RunConfig
    nodes: tuple[NodePlan, ...]
    environment: Mapping[str, str]


def plan(values: Mapping[str, str]) -> Plan:
    """The run that the ``values`` of :data:`ARGUMENTS` ask for; its folder is made and its configuration written.

    Raises:
        ConfigError: a value is not one that its argument takes.
    """
    sim, record, discovery = _truth("sim", values), _truth("record", values), _discovery(values["discovery"])
    enable = sim if values["enable"] == "" else _truth("enable", values)
    if enable and not sim:
        raise ConfigError("enable: real arms are enabled at the robot (service /syvla/enable), never by a launch")
    rig = "twin" if sim and values["rig"] == ARGUMENTS[0].default else values["rig"]
    policy = values["policy"] or default_policy()
    joystick = _truth("joystick", values)
    kind = load_rig(rig).kind
    if (kind == "twin") is not sim:
        raise ConfigError(f"rig {rig!r} is a {kind}: it needs sim:={str(not sim).lower()}")
    latencies_s = STAND_INS_S.get(policy, (0.0, 0.0))
    run = realtime_run(rig, *latencies_s, policy, _remote_planner(values), joystick, values["backend"])
    seed, episodes = _count("seed", values), _count("episodes", values)
    if episodes and not sim:
        raise ConfigError("episodes: only the twin's table can be laid by a program; it needs sim:=true")
    instruction = values["instruction"]
    scene: tuple[str, ...] = ()
    if sim:
        scene = ("--task", values["task"], "--split", values["split"], "--seed", str(seed))
        instruction = instruction or _instruction(run, *scene[1::2])
    if episodes:  # a director lays the table, states the task and enables
        directed = (*scene[:4], "--first-seed", str(seed), "--episodes", str(episodes))
        instruction, scene, enable = "", (), False
    folder = RunFolder.create(Path(values["runs"]), "ros")
    folder.save(run)
    path = str(folder.path)
    robot = (path, *(("--instruction", instruction) if instruction else ()), *(("--enable",) if enable else ()))
    nodes = [
        *([NodePlan("twin", (path, *scene), respawn=False)] if sim else []),
        NodePlan("cameras", (path,)),
        NodePlan("planner", (path,)),
        NodePlan("expert", (path,)),
        NodePlan("robot", robot),
        *([NodePlan("teleop", (path,))] if joystick else []),
        NodePlan("recorder", (path, *(("--record",) if record else ()))),
        *([NodePlan("director", (path, *directed), respawn=False)] if episodes else []),
    ]
    return Plan(folder, run, tuple(nodes), {**ONE_THREAD, **discovery})


def _discovery(reach: str) -> dict[str, str]:
    """ROS's variables: Humble knows only the second, and later ones still heed it."""
    choices = {
        "localhost": {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOCALHOST_ONLY": "1"},
        "subnet": {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "0"},
    }
    if reach not in choices:
        raise ConfigError(f"discovery must be {' or '.join(choices)}, not {reach!r}")
    return choices[reach]


def _remote_planner(values: Mapping[str, str]) -> RemotePlannerConfig | None:
    keys = values["keys"]
    if values["planner"]:
        return RemotePlannerConfig(address=values["planner"], keys_folder=str(Path(keys).resolve()) if keys else "")
    if keys:
        raise ConfigError("keys are for a planner on another machine: give planner:=tcp://host:port too")
    return None


def _truth(name: str, values: Mapping[str, str]) -> bool:
    choices = {"true": True, "false": False}
    if values[name].lower() not in choices:
        raise ConfigError(f"{name} must be true or false, not {values[name]!r}")
    return choices[values[name].lower()]


def _count(name: str, values: Mapping[str, str]) -> int:
    text = values[name]
    if not text.isdecimal():
        raise ConfigError(f"{name} must be a whole number from 0 on, not {text!r}")
    return int(text)


def _instruction(run: RunConfig, task: str, split: str, seed: str) -> str:
    """What the scene asks for."""
    from syvla.messages import SimReset
    from syvla.sim.tasks import ALL_TASKS
    from syvla.sim.world import TwinWorld

    world = TwinWorld(run.rig, ALL_TASKS)
    world.reset(SimReset(reset_id=0, task=task, split=split, seed=int(seed)))
    instruction = world.truth(0).instruction
    world.close()
    return instruction
