"""How long from a press of the deadman to the first command of a person, over the bus.

The twin, the robot and the teleop stage are processes of their own. SDL's virtual controller exists inside one process
only, so that of the teleop stage also presses its buttons, in a second thread and at moments that no loop knows of. A
press is stamped before SDL is told of it, the command after it was sent to both arms.
"""

import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from syvla.bench.conditions import conditions
from syvla.config import RunConfig
from syvla.control.gamepad import DEADMAN, Button
from syvla.errors import SyvlaError
from syvla.hosts.process import stop_with_parent
from syvla.hosts.supervisor import Supervisor
from syvla.messages import Health, JointCommand, Mode, OperatorCommand, SafetyState
from syvla.rig import ask_realtime, bus_host, open_bus
from syvla.runs import RunFolder, realtime_run

TARGET_P99_S = 15e-3
WARM_UP = 5  # takeovers before the first that counts
HELD_S, STRUCK_S = 0.05, 0.03  # how long the deadman is held, and START struck
PAUSE_S = (0.08, 0.18)
POLL_S = 0.005
REPEAT_S = 1.0  # an operator's word that had no effect is said again
START_LIMIT_S, LIMIT_S = 60.0, 10.0  # to the first takeover; from one to the next
STOP_ORDER = ("robot", "teleop", "twin")
PRESSES = "presses"


class Controller(Protocol):
    """A game controller that can be pressed by a program."""

    def press(self, button: Button) -> None:
        """Push ``button`` down."""

    def release(self, button: Button) -> None:
        """Let go of ``button``."""


class Takeovers(NamedTuple):
    """What was seen on the bus."""

    first_ns: list[int]  # of each override, when its first command had been sent
    holds: list[str]  # why the arms held meanwhile
    realtime: dict[str, str]


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Press ``repeats`` times (400 by default)."""
    wanted = repeats or (40 if quick else 400)
    config = realtime_run("twin", 0.0, 0.0, joystick=True)
    with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
        folder = RunFolder.create(Path(parent), "takeover")
        folder.save(config)
        commands = {name: argv for name, argv in folder.commands().items() if name in STOP_ORDER}
        commands["teleop"] = [sys.executable, "-m", __name__, str(folder.path), commands["robot"][-1]]
        try:
            with running(commands, folder.logs) as supervisor:
                seen = watch(config, supervisor, wanted)
        finally:
            shutil.rmtree(config.bus_folder, ignore_errors=True)
        pressed_ns = presses(folder.path)
    return figures("takeover", pressed_ns, seen, wanted, TARGET_P99_S)


def figures(
    name: str, pressed_ns: Sequence[int], seen: Takeovers, wanted: int, target_p99_s: float
) -> tuple[dict[str, Any], list[str]]:
    """The result of the benchmark ``name``, for JSON and in words."""
    latency_s = latencies_s(pressed_ns, seen.first_ns)[WARM_UP:]
    p50, p99, most = (float(q) for q in np.quantile(latency_s, (0.5, 0.99, 1.0)))
    fifo = all(words.startswith("SCHED_FIFO") for words in seen.realtime.values())
    lines = [
        f"{name}: {len(latency_s)} presses, deadman to first human command p50 {p50 * 1e3:.1f}, "
        f"p99 {p99 * 1e3:.1f}, max {most * 1e3:.1f} ms; {len(seen.holds)} holds meanwhile",
        *(f"  {name}: {words}" for name, words in seen.realtime.items()),
        f"  target p99 {target_p99_s * 1e3:.0f} ms{'' if fifo else '; not judged: SCHED_FIFO is not allowed here'}",
    ]
    return {
        "benchmark": name,
        "conditions": conditions(),
        "realtime": seen.realtime,
        "presses": len(latency_s),
        "latency_s": {"p50": p50, "p99": p99, "max": most},
        "every_latency_s": latency_s,
        "holds": seen.holds,
        "target_p99_s": target_p99_s,
        "reached": len(latency_s) >= wanted and (not fifo or p99 <= target_p99_s),
    }, lines


def presses(folder: Path) -> list[int]:
    """When the deadman was pressed, as :func:`press` wrote it into ``folder`` [ns]."""
    return [int(line) for line in (folder / PRESSES).read_text().split()]


def latencies_s(pressed_ns: Sequence[int], first_ns: Sequence[int]) -> list[float]:
    """From each press that led to a takeover before the next press to its first command [s]; both in order."""
    ends_ns = [*pressed_ns[1:], sys.maxsize]
    found = []
    for begin_ns, end_ns in zip(pressed_ns, ends_ns, strict=True):
        led_to = next((at_ns for at_ns in first_ns if begin_ns <= at_ns < end_ns), None)
        if led_to is not None:
            found.append((led_to - begin_ns) * 1e-9)
    return found


@contextlib.contextmanager
def running(commands: Mapping[str, list[str]], logs: Path) -> Iterator[Supervisor]:
    """The processes of ``commands``, ended in order."""
    supervisor = Supervisor(commands, logs)
    try:
        supervisor.start()
        yield supervisor
    finally:
        supervisor.stop(STOP_ORDER)
        supervisor.close()


def watch(config: RunConfig, supervisor: Supervisor, wanted: int) -> Takeovers:
    """Enable the arms, resume them when they hold, and note the first command of each override."""
    inlet, outlet = open_bus(config, "console", ("command", "safety", "health/robot", "health/teleop"), lossless=True)
    seen, mode, said_s, alive_s = Takeovers([], [], {}), None, 0.0, time.monotonic() + START_LIMIT_S
    newest = -1
    try:
        while len(seen.first_ns) < wanted + WARM_UP:
            time.sleep(POLL_S)
            outlet.poll()
            for received in inlet.drain():
                message = received.message
                if isinstance(message, Health):
                    seen.realtime[message.process] = message.realtime
                elif isinstance(message, SafetyState):
                    if message.mode is Mode.HOLD and mode is not Mode.HOLD:
                        seen.holds.append(", ".join(reason.code for reason in message.reasons))
                    mode = message.mode
                elif isinstance(message, JointCommand) and message.provenance.override_id > newest:
                    newest = message.provenance.override_id
                    seen.first_ns.append(received.header.sent_ns)
                    alive_s = time.monotonic() + LIMIT_S
            now_s = time.monotonic()
            if mode in (Mode.DISABLED, Mode.HOLD) and now_s - said_s > REPEAT_S:
                said_s, now_ns = now_s, time.monotonic_ns()
                action: Literal["enable", "resume"] = "enable" if mode is Mode.DISABLED else "resume"
                outlet.publish(
                    "operator", OperatorCommand(command_id=now_ns, issued_ns=now_ns, action=action), now_ns, 0
                )
            ended = supervisor.poll()
            if ended or now_s > alive_s:
                why = ended[0].reason if ended else f"nobody took over for a while; the robot is {mode}"
                raise SyvlaError(f"the takeover benchmark ends early: {why}")
    finally:
        inlet.close()
        outlet.close()
    return seen


def _serve(path: Path, parent_pid: int) -> None:
    """Be the teleop process, with a controller that somebody keeps pressing."""
    from syvla.drivers.joystick_emulator import VirtualController

    folder = RunFolder(path)
    config = folder.load()
    stop_with_parent(parent_pid)
    realtime = ask_realtime("teleop", config.rig.realtime)
    host = bus_host("teleop", config, folder, realtime)  # SDL runs from here on
    Thread(target=press, args=(VirtualController(), path), daemon=True).start()
    host.run()


def press(controller: Controller, folder: Path) -> None:
    """Take over and give back again, for ever; each press of the deadman is written down in ``folder``."""
    with (folder / PRESSES).open("w") as file:
        while True:
            time.sleep(random.uniform(*PAUSE_S))
            pressed_ns = time.monotonic_ns()
            controller.press(DEADMAN)
            file.write(f"{pressed_ns}\n")
            file.flush()
            time.sleep(HELD_S)
            controller.release(DEADMAN)
            controller.press(Button.START)
            time.sleep(STRUCK_S)
            controller.release(Button.START)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
