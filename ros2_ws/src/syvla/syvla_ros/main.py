"""The executables of the ROS package: ``ros2 run syvla NAME RUN_FOLDER``, and ``ros2 run syvla bench FIGURE``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from rclpy.utilities import remove_ros_args

from syvla.clock import monotonic_ns
from syvla.errors import ConfigError, SyvlaError
from syvla.messages import SimReset
from syvla.runs import RunFolder
from syvla_ros.director_node import run_director
from syvla_ros.ends import Desk
from syvla_ros.node import run_node
from syvla_ros.recorder_node import run_recorder
from syvla_ros.robot_node import run_robot

RunPath = Annotated[Path, tyro.conf.Positional]


def bench() -> None:
    """Figures over ROS."""
    from syvla_ros.bench import loop, take_over

    figures: dict[str, Callable[..., Any]] = {"loop": loop, "takeover": take_over}
    arguments = remove_ros_args(sys.argv)[1:]
    try:
        sys.exit(tyro.extras.subcommand_cli_from_dict(figures, prog="bench", args=arguments))
    except SyvlaError as error:
        sys.exit(f"bench: {error}")


def bag() -> None:
    """Recordings as rosbag2 bags."""
    from syvla_ros.bag import write_bag

    def run(recordings: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
        """What has a standard message in a recording, as a rosbag2 bag with ROS 2 schemas; the recording stays.

        Args:
            recordings: One or several.
            out: The bag's folder, for one recording; by default NAME.rosbag2 beside it.
        """
        if not recordings or (out is not None and len(recordings) > 1):
            raise ConfigError("give one recording, or several without --out")
        for recording in recordings:
            folder, count = write_bag(recording, out)
            sys.stdout.write(f"{folder}: {count} messages\n")

    _main("bag", run)


def cameras() -> None:
    """The cameras."""
    _main("cameras", _stage("cameras"))


def planner() -> None:
    """The slow system, or the link to it on another machine."""
    _main("planner", _stage("planner"))


def expert() -> None:
    """The fast system."""
    _main("expert", _stage("expert"))


def recorder() -> None:
    """Every message of an episode into one MCAP file."""

    def run(folder: RunPath, record: bool = False) -> None:
        """Every message of an episode into one MCAP file; services /syvla/record/*.

        Args:
            folder: The run's folder, made by the launch.
            record: Begin an episode at once.
        """
        run_recorder(RunFolder(folder), record)

    _main("recorder", run)


def record() -> None:
    """Begin and end episodes from the keyboard."""
    from syvla_ros.record import record as run

    _main("record", run)


def robot() -> None:
    """The robot: owns the arms."""

    def run(folder: RunPath, instruction: str = "", enable: bool = False) -> None:
        """The robot's node: owns the arms.

        Args:
            folder: The run's folder, made by the launch.
            instruction: The task in force at the start.
            enable: Enable the arms, once in this run, when both systems are heard.
        """
        run_robot(RunFolder(folder), instruction, enable)

    _main("robot", run)


def director() -> None:
    """The operator of the twin, by a script."""

    def run(folder: RunPath, task: str, split: str = "id", first_seed: int = 0, episodes: int = 1) -> int:
        """Runs episodes on the twin as an operator would.

        Args:
            folder: The run's folder, made by the launch.
            task: What is to be done.
            split: Where the things lie, or how it is said.
            first_seed: The table of the first episode; the next ones follow.
            episodes: How many.
        """
        return run_director(RunFolder(folder), task, split, first_seed, episodes)

    _main("director", run)


def teleop() -> None:
    """A person at a game controller."""
    _main("teleop", _stage("teleop"))


def twin() -> None:
    """The simulated robot and table."""

    def run(folder: RunPath, task: str = "", split: str = "id", seed: int = 0) -> None:
        """The simulated robot and table.

        Args:
            folder: The run's folder, made by the launch.
            task: Whose things lie on the table from the start; without, somebody else lays it.
            split: Where they lie.
            seed: Which table.
        """
        desk = Desk()
        if task:
            desk.say("sim/reset", SimReset(reset_id=monotonic_ns(), task=task, split=split, seed=seed))
        run_node("twin", RunFolder(folder), desk)

    _main("twin", run)


def _stage(name: str) -> Callable[..., None]:
    def run(folder: RunPath) -> None:
        run_node(name, RunFolder(folder))

    run.__doc__ = f"The {name} node.\n\nArgs:\n    folder: The run's folder, made by the launch."
    return run


def _main(name: str, run: Callable[..., Any]) -> None:
    try:
        sys.exit(tyro.cli(run, prog=name, args=remove_ros_args(sys.argv)[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except SyvlaError as error:
        sys.exit(f"{name}: {error}")
