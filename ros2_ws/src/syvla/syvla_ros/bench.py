"""Figures over ROS, with their targets: ``ros2 run syvla bench loop`` and ``... takeover``, each on the twin.

The nodes are those of the launch, started without it.
"""

import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Joy

from syvla.apps.director import Episode as Asked
from syvla.apps.realtime import run_realtime
from syvla.bench import takeover
from syvla.bench.conditions import conditions, progress
from syvla.clock import monotonic_ns
from syvla.commands.shared import check_writable, write_json
from syvla.control.gamepad import AXES, Button
from syvla.errors import SyvlaError
from syvla.hosts.process import stop_with_parent
from syvla.hosts.supervisor import Supervisor
from syvla.report.episode import load
from syvla.report.summary import published_to_command_s, quantiles
from syvla.runs import RunFolder, realtime_run
from syvla_ros.bringup import ARGUMENTS, STAND_INS_S, Plan, plan
from syvla_ros.clock import RosClock
from syvla_ros.director_node import SUMMARY
from syvla_ros.foreign import JOY
from syvla_ros.node import init_ros

LOOP, TAKEOVER = "ros2 run syvla bench loop", "ros2 run syvla bench takeover"  # as they are told of in their results
BLOCK = 5  # episodes over one host before it is the other's turn
MOST_POINTS = 3.0  # of success that ROS may cost
TARGET_COMMAND_P99_S, TARGET_LATENESS_P99_S, TARGET_TAKEOVER_P99_S = 10e-3, 0.5e-3, 30e-3
STOP_ORDER = ("robot", "teleop", "expert", "planner", "cameras", "recorder", "twin")
JOY_REPEAT_S = 0.05  # a game_controller_node says it again so often, by default
POLL_S = 0.2


class Seen(NamedTuple):
    """Episodes over one host; ``command_s`` is from a chunk's publication to its first command's having been sent."""

    success: list[bool]
    command_s: list[float]
    lateness_s: list[float]
    realtime: str


def loop(task: str = "snack_loading", policy: str = "reference", seeds: int = 40, json: Path | None = None) -> int:
    """The closed loop over ROS and over the bus, in turn on the same seeds.

    Args:
        task: What is to be done.
        policy: reference, learned, or the folder of a checkpoint.
        seeds: How many episodes over each.
        json: Also write the result to this file.
    """
    check_writable(json, LOOP)
    parts: dict[str, list[Seen]] = {"ros": [], "bus": []}
    for first in range(0, seeds, BLOCK):
        block = range(first, min(first + BLOCK, seeds))
        with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
            parts["ros"].append(_over_ros(Path(parent), task, policy, block))
        with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
            parts["bus"].append(_over_bus(Path(parent), task, policy, block))
    ros, bus = _joined(parts["ros"]), _joined(parts["bus"])
    points = 100.0 * (statistics.fmean(bus.success) - statistics.fmean(ros.success))
    command, late = quantiles(ros.command_s), quantiles(ros.lateness_s)
    fifo = ros.realtime.startswith("SCHED_FIFO")
    lines = [
        f"ROS loop, {task}, policy {policy}: done {sum(ros.success)} of {len(ros.success)} over ROS, "
        f"{sum(bus.success)} of {len(bus.success)} over the bus (ROS may cost {MOST_POINTS:g} points)",
        *(f"  {name}: {_words(seen)}" for name, seen in (("ROS", ros), ("bus", bus))),
        f"  targets over ROS: p99 {TARGET_COMMAND_P99_S * 1e3:g} ms, lateness p99 {TARGET_LATENESS_P99_S * 1e3:g} ms"
        + ("" if fifo else "; lateness is not judged: SCHED_FIFO is not allowed here"),
    ]
    reached = points <= MOST_POINTS and _within(command, TARGET_COMMAND_P99_S)
    reached = reached and (not fifo or _within(late, TARGET_LATENESS_P99_S))
    result = {
        "benchmark": "ros-loop",
        "conditions": conditions(),
        "task": task,
        "policy": policy,
        "hosts": {name: _row(seen) for name, seen in (("ros", ros), ("bus", bus))},
        "points_lost": points,
        "reached": reached,
    }
    return _told(result, lines, json, LOOP)


def take_over(presses: int = 400, json: Path | None = None) -> int:
    """From a press of the deadman, published on /joy, to the first command of a person.

    Args:
        presses: How many.
        json: Also write the result to this file.
    """
    check_writable(json, TAKEOVER)
    with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
        made = _plan(Path(parent), joystick="true", enable="false", policy="reference")
        rig = msgspec.structs.replace(made.run.rig, ros=msgspec.structs.replace(made.run.rig.ros, joystick="ros"))
        run = msgspec.structs.replace(made.run, rig=rig)
        made.folder.save(run)
        commands = {name: argv for name, argv in _commands(made).items() if name in takeover.STOP_ORDER}
        pressing = f"import sys; from {__name__} import press_joy; press_joy(*sys.argv[1:])"
        commands["joy"] = [sys.executable, "-c", pressing, str(made.folder.path)]
        with _environment(made), takeover.running(commands, made.folder.logs) as supervisor:
            seen = takeover.watch(run, supervisor, presses)
        pressed_ns = takeover.presses(made.folder.path)
    figures = takeover.figures("ros-takeover", pressed_ns, seen, presses, TARGET_TAKEOVER_P99_S)
    return _told(*figures, json, TAKEOVER)


# ---------------------------------------------------------------- one host


def _over_ros(parent: Path, task: str, policy: str, seeds: range) -> Seen:
    made = _plan(parent, task=task, policy=policy, seed=str(seeds[0]), episodes=str(len(seeds)))
    with _environment(made), takeover.running(_commands(made), made.folder.logs) as supervisor:
        _wait_for_director(supervisor)
        supervisor.stop(STOP_ORDER)
    told = json.loads((made.folder.path / SUMMARY).read_text())["episodes"]
    for row in told:
        print(f"ROS: seed {row['episode']['seed']}: {'done' if row['success'] else row['why']}", file=sys.stderr)
    return _seen(made.folder, [row["success"] for row in told])


def _over_bus(parent: Path, task: str, policy: str, seeds: range) -> Seen:
    folder = RunFolder.create(parent, "bus")
    episodes = [Asked(task, "id", seed, f"{task}-id-{seed}") for seed in seeds]
    run = realtime_run("twin", *STAND_INS_S.get(policy, (0.0, 0.0)), policy)
    result = run_realtime(run, episodes, folder, tell=progress(len(episodes)))
    return _seen(folder, [outcome.success for outcome in result.outcomes])


def _seen(folder: RunFolder, success: list[bool]) -> Seen:
    command_s: list[float] = []
    lateness_s: list[float] = []
    realtime = "unknown"
    for path in sorted(folder.recordings.glob("*.mcap")):
        episode = load(path)
        command_s += published_to_command_s(episode)
        for health in episode.health:
            realtime = health.realtime
            lateness_s += [] if health.lateness_s is None else health.lateness_s.tolist()
    return Seen(success, command_s, lateness_s, realtime)


def _joined(parts: Sequence[Seen]) -> Seen:
    return Seen(
        [done for part in parts for done in part.success],
        [value for part in parts for value in part.command_s],
        [value for part in parts for value in part.lateness_s],
        parts[-1].realtime,
    )


# ---------------------------------------------------------------- the nodes


def _plan(parent: Path, **changes: str) -> Plan:
    return plan({**{a.name: a.default for a in ARGUMENTS}, "sim": "true", "runs": str(parent), **changes})


def _commands(made: Plan) -> dict[str, list[str]]:
    def argv(executable: str, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", f"from syvla_ros import main; main.{executable}()", *arguments]

    return {node.executable: argv(node.executable, node.arguments) for node in made.nodes}


@contextlib.contextmanager
def _environment(made: Plan) -> Iterator[None]:
    """What the nodes of a run are given; afterwards the run's sockets are gone."""
    before = dict(os.environ)
    os.environ.update(made.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(made.run.bus_folder, ignore_errors=True)


def _wait_for_director(supervisor: Supervisor) -> None:
    while True:
        for exited in supervisor.poll(POLL_S):
            if exited.name == "director":
                return
            raise SyvlaError(f"the ROS benchmark ends early: {exited.reason}\n{exited.log_tail}")


class JoyController:
    """A game controller that says on /joy what a ``game_controller_node`` would: each change at once, and again."""

    def __init__(self, node: Node, clock: RosClock) -> None:
        self._clock = clock
        self._publisher = node.create_publisher(Joy, JOY, 10)
        self._down: set[Button] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def press(self, button: Button) -> None:
        """Push ``button`` down."""
        self._change(self._down | {button})

    def release(self, button: Button) -> None:
        """Let go of ``button``."""
        self._change(self._down - {button})

    def repeat(self) -> None:
        """Say the same again, until it is closed."""
        while not self._closed.wait(JOY_REPEAT_S):
            self._change(self._down)

    def close(self) -> None:
        """Fall silent."""
        self._closed.set()

    def _change(self, down: set[Button]) -> None:
        with self._lock:
            self._down = down
            message = Joy(axes=[0.0] * AXES, buttons=[int(button in down) for button in Button])
            message.header.stamp = self._clock.to_ros(monotonic_ns())
            self._publisher.publish(message)


def press_joy(path: str) -> None:
    """Be a person at a game controller in the run of the folder ``path``, until the parent ends."""
    folder = RunFolder(Path(path))
    run = folder.load()
    stop_with_parent(os.getppid())
    init_ros()
    controller = JoyController(rclpy.create_node("game_controller"), RosClock(run.wall_offset_ns))
    threading.Thread(target=controller.repeat, daemon=True).start()
    takeover.press(controller, folder.path)


# ---------------------------------------------------------------- words


def _words(seen: Seen) -> str:
    command, late = quantiles(seen.command_s), quantiles(seen.lateness_s)
    if command["p99"] is None or late["p99"] is None:
        return "nothing was commanded"
    return (
        f"chunk published to command sent p50 {1e3 * (command['p50'] or 0.0):.1f}, p99 {1e3 * command['p99']:.1f}, "
        f"max {1e3 * (command['max'] or 0.0):.1f} ms of {command['n']}; lateness p99 {1e3 * late['p99']:.3f}, "
        f"max {1e3 * (late['max'] or 0.0):.3f} ms of {late['n']} ticks, {seen.realtime}"
    )


def _row(seen: Seen) -> dict[str, Any]:
    return {
        "done": sum(seen.success),
        "success": seen.success,
        "published_to_command_s": quantiles(seen.command_s),
        "lateness_s": quantiles(seen.lateness_s),
        "realtime": seen.realtime,
    }


def _within(values: dict[str, float | int | None], target_s: float) -> bool:
    return values["p99"] is not None and values["p99"] <= target_s


def _told(result: dict[str, Any], lines: Sequence[str], path: Path | None, command: str) -> int:
    print("\n".join(lines), flush=True)
    write_json(path, command, result)
    return 0 if result["reached"] else 1
