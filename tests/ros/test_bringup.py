"""What a launch brings up, with and without ROS's own launch."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syvla.apps.replay_verify import verify
from syvla.errors import ConfigError
from syvla.messages import Mode, SafetyState
from syvla.recording.mcap_read import Recording, read
from syvla_ros.bringup import ARGUMENTS, Plan, plan

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ros2_ws" / "src" / "syvla"
LAUNCH = ROOT / "launch" / "bringup.launch.py"


def values(tmp_path: Path, **changes: str) -> dict[str, str]:
    return {**{a.name: a.default for a in ARGUMENTS}, "sim": "true", "runs": str(tmp_path), **changes}


def executables(kind: str = "NODES") -> set[str]:
    """The nodes, or the TOOLS, that the package's setup.py installs."""
    for node in ast.parse((PACKAGE / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(name := node.targets[0], ast.Name) and name.id == kind:
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"setup.py names no {kind}")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Plan]:
    """A plan for the twin."""
    made = plan(values(tmp_path, seed="3", policy="reference"))
    yield made
    shutil.rmtree(made.run.bus_folder)


def test_on_the_twin_the_scene_says_what_is_to_be_done(made: Plan) -> None:
    robot = next(node for node in made.nodes if node.executable == "robot")
    assert robot.arguments[0] == str(made.folder.path)
    assert "red cube" in robot.arguments[robot.arguments.index("--instruction") + 1]
    assert "--enable" in robot.arguments
    assert made.folder.load() == made.run
    assert made.run.wall_offset_ns > 10**18
    assert made.run.policy.planner_latency_s == 0.3


def test_with_episodes_a_director_lays_the_table_and_enables(tmp_path: Path) -> None:
    made = plan(values(tmp_path, episodes="40", seed="7", policy="reference"))
    called = {node.executable: node.arguments[1:] for node in made.nodes}
    assert called["director"] == ("--task", "snack_loading", "--split", "id", "--first-seed", "7", "--episodes", "40")
    assert called["robot"] == called["twin"] == ()
    shutil.rmtree(made.run.bus_folder)


def test_nobody_beyond_this_machine_finds_the_nodes_unless_that_is_asked_for(made: Plan, tmp_path: Path) -> None:
    assert made.environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert made.environment["ROS_LOCALHOST_ONLY"] == "1"  # all that Humble knows, whatever its shell says of itself
    wide = plan(values(tmp_path / "wide", discovery="subnet", policy="reference"))
    assert wide.environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    shutil.rmtree(wide.run.bus_folder)


def test_a_real_rig_is_brought_up_disabled_and_on_its_own_buses(tmp_path: Path) -> None:
    made = plan(values(tmp_path, sim="false", instruction="put it there", policy="learned"))
    called = {node.executable: node.arguments[1:] for node in made.nodes}
    assert "twin" not in called
    assert called["robot"] == ("--instruction", "put it there")
    assert (made.run.rig.left.can_interface, made.run.rig.left.can_channel) == ("socketcan", "can_left")
    shutil.rmtree(made.run.bus_folder)


def test_every_node_of_the_launch_is_installed_and_starts_again_but_the_physical_world(made: Plan) -> None:
    assert {node.executable for node in made.nodes} <= executables()
    assert [node.executable for node in made.nodes if not node.respawn] == ["twin"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sim": "yes"}, "sim must be true or false, not 'yes'"),
        ({"record": ""}, "record must be true or false"),
        ({"discovery": "world"}, "discovery must be localhost or subnet"),
        ({"seed": "-1"}, "seed must be a whole number"),
        ({"episodes": "many"}, "episodes must be a whole number"),
        ({"sim": "false", "episodes": "2"}, "only the twin's table can be laid by a program"),
        ({"rig": "cobot_magic.toml", "sim": "true"}, "cobot_magic.toml"),
        ({"sim": "false", "policy": "reference"}, "reads the twin's truth"),
        ({"sim": "false", "enable": "true"}, "real arms are enabled at the robot"),
        ({"sim": "false", "rig": "twin"}, "it needs sim:=true"),
        ({"rig": "moon"}, "no rig 'moon'"),
        ({"policy": "best"}, "no policy 'best'"),
        ({"task": "juggle"}, "juggle"),
        ({"split": "id2"}, "id2"),
    ],
)
def test_a_value_that_is_none_is_refused(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(values(tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_the_launch_declares_exactly_the_arguments_of_the_plan() -> None:
    """By its text, for a machine without ROS's launch."""
    tree = ast.parse(LAUNCH.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    declared = [call for call in calls if call.func.id == "DeclareLaunchArgument"]  # type: ignore[attr-defined]
    assert len(declared) == 1
    assert isinstance(declared[0].args[0], ast.Attribute)  # a.name, for a in ARGUMENTS
    nodes = [call for call in calls if call.func.id == "Node"]  # type: ignore[attr-defined]
    assert {k.arg: ast.literal_eval(k.value) for k in nodes[0].keywords if k.arg == "package"} == {"package": "syvla"}


def built(parent: Path) -> Path:
    """A copy of the workspace, built."""
    workspace = parent / "ros2_ws"
    shutil.copytree(ROOT / "ros2_ws" / "src", workspace / "src")
    shutil.copytree(ROOT / "launch", parent / "launch")
    colcon = [sys.executable, "-m", "colcon", "build"]
    done = subprocess.run(colcon, cwd=workspace, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace


def test_colcon_builds_the_package(tmp_path: Path) -> None:
    pytest.importorskip("colcon_core")
    workspace = built(tmp_path)
    installed = workspace / "install" / "syvla"
    assert {path.name for path in (installed / "lib" / "syvla").iterdir()} == executables() | executables("TOOLS")
    assert (installed / "share" / "syvla" / "launch" / "bringup.launch.py").read_bytes() == LAUNCH.read_bytes()
    assert (installed / "share" / "ament_index" / "resource_index" / "packages" / "syvla").is_file()
    helped = subprocess.run(
        [installed / "lib" / "syvla" / "robot", "--help"],
        env={"PYTHONPATH": ":".join([str(next(installed.glob("lib/python*/site-packages"))), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "owns the arms" in helped.stdout, helped.stderr


def test_the_launch_describes_the_plan(tmp_path: Path) -> None:
    """Where ROS's launch is installed: every node of the plan, with what it is called with."""
    launch = pytest.importorskip("launch")
    pytest.importorskip("launch_ros")
    import runpy

    described: Any = runpy.run_path(str(LAUNCH))
    service = launch.LaunchService(argv=[])
    declared = described["generate_launch_description"]().get_launch_arguments()
    assert [a.name for a in declared] == [a.name for a in ARGUMENTS]
    service.context.launch_configurations.update(values(tmp_path))
    actions = described["_bring_up"](service.context)
    nodes = [action for action in actions if type(action).__name__ == "Node"]
    assert {node.node_executable for node in nodes} <= executables()
    assert len(nodes) == 6


def test_the_real_command_brings_up_the_twin_and_does_an_episode(tmp_path: Path) -> None:
    """Where ROS's launch and command are installed: ``ros2 launch syvla bringup.launch.py`` as a person types it."""
    for needed in ("launch_ros", "ros2launch", "ros2cli", "colcon_core"):
        pytest.importorskip(needed)
    workspace = built(tmp_path)
    arguments = values(tmp_path, policy="reference", episodes="1", seed="3", joystick="true")
    given = [f"{name}:={value}" for name, value in arguments.items() if value]
    command = f"from ros2cli.cli import main; main(argv=['launch', 'syvla', 'bringup.launch.py', *{given!r}])"
    places = [str(workspace / "install" / "syvla"), *filter(None, [os.environ.get("AMENT_PREFIX_PATH")])]
    library = next((workspace / "install" / "syvla").glob("lib/python*/site-packages"))
    path = ":".join([str(library), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "AMENT_PREFIX_PATH": ":".join(places), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert "snack_loading-id-3: done" in done.stdout, done.stdout + done.stderr
    (run,) = [folder for folder in tmp_path.iterdir() if folder.name.endswith("-ros")]
    assert json.loads((run / "episodes.json").read_text())["done"] == 1
    (recording,) = (run / "recordings").glob("*.mcap")
    modes = [r.message.mode for r in read(recording) if isinstance(r.message, SafetyState)]
    assert Mode.ENABLED in modes
    (robot,) = verify(Recording(recording), ("robot",), print)
    assert robot.steps > 300
    assert robot.exact, "also what came over ROS is known by its place on the bus"
    assert "process has died" not in done.stdout
