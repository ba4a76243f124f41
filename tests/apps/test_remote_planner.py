"""The planner as a process of another machine: killed, frozen, unplugged, and what becomes of the arms meanwhile."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.apps.test_realtime import SLACK_S, Run, await_motion, held_after_s, reasons, start

from syvla.config import PolicyConfig
from syvla.message import Message
from syvla.messages import ArmName, ArmState, Intent, JointCommand, SimReset, Source, Task
from syvla.protocols import Header, Inbox, Received
from syvla.rig import open_bus
from syvla.runs import RunFolder, load_rig
from syvla.sim.tasks import ALL_TASKS
from syvla.sim.world import TwinWorld
from syvla.stages.observer import Observer
from syvla.stages.remote_planner import RemotePlannerStage
from syvla.transport.keys import make_keys, robot_keys
from syvla.transport.robot_end import RobotEnd

LIMIT_S = 150.0  # for a process to start on a busy machine
TIME_TO_LIVE_S = 1.0


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys for each side, exchanged."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("planner", "robot"):
        make_keys(folder / name)
    shutil.copy(folder / "robot" / "own.key", folder / "planner" / "allowed" / "robot.key")
    shutil.copy(folder / "planner" / "own.key", folder / "robot" / "planner.key")
    return folder


@pytest.fixture
def address() -> str:
    """A free port of loopback, known before anybody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def planner(address: str, keys: Path, *within: str, latency_s: float = 0.05) -> Iterator[subprocess.Popen[str]]:
    """``syvla planner`` with the reference policy, listening."""
    argv = [*within, sys.executable, "-m", "syvla.cli", "planner", "--policy", "reference", "--bind", address]
    argv += ["--keys", str(keys / "planner"), "--latency", str(latency_s)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = [process.stdout.readline(), process.stdout.readline()]
        assert "1 keys may connect" in said[0]
        assert said[1] == f"policy reference listens at {address}\n"
        yield process
    finally:
        process.kill()
        process.communicate()


class RobotSide:
    """What the robot's machine does for its planner elsewhere, without the robot: arms that stand, a table, a task."""

    def __init__(self, address: str, keys: Path) -> None:
        world = TwinWorld(load_rig("twin"), ALL_TASKS)
        world.reset(SimReset(reset_id=1, task="snack_loading", split="id", seed=0))
        truth = world.truth(0)
        world.close()
        self.stage = RemotePlannerStage(Observer(()), PolicyConfig(), 90, truth=True)
        self.end = RobotEnd(address, time.monotonic_ns(), robot_keys(keys / "robot"))
        self.latest: dict[str, Received] = {}
        self.fresh: list[Received] = []
        self.intents: list[Received] = []
        self.ages_s: list[float] = []
        self._put("task", Task(task_id=1, instruction=truth.instruction, issued_ns=0))
        self._truth = truth

    def _put(self, topic: str, message: Message) -> None:
        now_ns = time.monotonic_ns()
        received = Received(Header(topic, 0, 0, now_ns, 0), message, now_ns, tuple)
        self.latest[topic] = received
        self.fresh.append(received)

    def turn(self) -> None:
        """One look at everything."""
        arms: tuple[ArmName, ArmName] = ("left", "right")
        now_ns = time.monotonic_ns()
        for arm in arms:
            state = ArmState(
                arm=arm,
                measured_ns=now_ns,
                position_rad=np.array([0.0, 1.0, -1.0, 0.0, 0.5, 0.0]),
                velocity_rad_s=np.zeros(6),
                effort_nm=np.zeros(6),
                gripper_width_m=0.05,
                enabled=True,
            )
            self._put(f"arm/{arm}", state)
        self._put("sim/truth", self._truth)
        came = self.end.drain()
        self.latest.update({received.header.topic: received for received in came})
        inbox = Inbox(self.latest, [*self.fresh, *came])
        self.fresh = []
        now_ns = time.monotonic_ns()
        for emit in self.stage.step(now_ns, inbox):
            if isinstance(emit.message, Intent):
                assert emit.origin is not None
                self.intents.append(emit.origin)
                self.ages_s.append((now_ns - emit.message.observation_ns) * 1e-9)
            elif emit.origin is None:
                self.end.publish(emit.topic, emit.message, now_ns, 0)
        self.end.poll()
        time.sleep(0.005)

    def until(self, done: Callable[[], bool]) -> None:
        """Go on until it has come about."""
        deadline_s = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < deadline_s, f"it never came about: {self.end.trouble or 'connected'}"
            self.turn()

    def hear_intents(self, count: int = 5) -> Sequence[Received]:
        """Go on until so many more have come."""
        known = len(self.intents)
        self.until(lambda: len(self.intents) >= known + count)
        return self.intents[known:]


@pytest.fixture
def robot(address: str, keys: Path) -> Iterator[RobotSide]:
    side = RobotSide(address, keys)
    yield side
    side.end.close()


def test_a_planner_that_is_killed_and_started_again_or_frozen_is_followed(
    address: str, keys: Path, robot: RobotSide
) -> None:
    with planner(address, keys) as first:
        before = robot.hear_intents()
        assert [r.header.sequence for r in before] == sorted(r.header.sequence for r in before)
        assert {r.header.epoch for r in before} == {before[0].header.epoch}
        os.kill(first.pid, signal.SIGSTOP)
        robot.until(lambda: robot.end.trouble == "silent")
        os.kill(first.pid, signal.SIGCONT)
        thawed = robot.hear_intents()
        ids = [r.message.intent_id for r in (*before, *thawed) if isinstance(r.message, Intent)]
        assert ids == sorted(set(ids)), "the same run of it goes on"
        os.kill(first.pid, signal.SIGKILL)
        robot.until(lambda: not robot.end.connected)
    with planner(address, keys):
        after = robot.hear_intents()
    assert after[0].header.epoch > before[0].header.epoch
    intents = [r.message.intent_id for r in after if isinstance(r.message, Intent)]
    assert intents[0] < 3, "its ids begin anew, which the epoch tells the expert"
    assert robot.stage.dropped == 0


def _watch_after(run: Run, process: "subprocess.Popen[str]", fault_ns: int) -> bool:
    """Let the planner go on as soon as the arms hold; whether intents came of what was seen after that.

    The demo ends its episode one second after the arms began to hold.
    """
    inlet, outlet = open_bus(RunFolder(run.folder).load(), "teleop", ("command", "intent"))  # a place that is free
    held_ns: int | None = None
    came_again = False
    end_s = time.monotonic() + 5.0
    try:
        while time.monotonic() < end_s:
            time.sleep(0.005)
            for message in (received.message for received in inlet.drain()):
                if isinstance(message, JointCommand) and message.commanded_ns > fault_ns and held_ns is None:
                    if message.provenance.source is Source.HOLD:
                        held_ns = time.monotonic_ns()
                        end_s = time.monotonic() + 0.9
                        if process.poll() is None:
                            os.kill(process.pid, signal.SIGCONT)
                elif isinstance(message, Intent) and held_ns is not None:
                    came_again |= message.observation_ns > held_ns
    finally:
        inlet.close()
        outlet.close()
    assert held_ns is not None, "the arms never held"
    return came_again


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_the_arms_hold_in_time_and_do_not_go_on_when_the_planner_comes_back(
    tmp_path: Path, address: str, keys: Path, number: signal.Signals
) -> None:
    with planner(address, keys, latency_s=0.1) as process:
        light = tmp_path / "light.toml"  # small images, that much else may be going on
        twin = Path("calibration/rigs/twin.toml").read_text()
        for had, has in (
            ("width = 320", "width = 160"),
            ("height = 240", "height = 120"),
            ("rate_hz = 15", "rate_hz = 8"),
        ):
            assert had in twin
            twin = twin.replace(had, has)
        light.write_text(twin)
        runs = tmp_path / "runs"
        flags = ("--planner", address, "--keys", str(keys / "robot"), "--rig", str(light))
        run = Run(start(runs, "snack_loading", flags=flags), runs)
        try:
            deadline_s = time.monotonic() + LIMIT_S
            while not list(runs.glob("*/recordings/*.mcap*")):
                assert time.monotonic() < deadline_s, "no recording was started"
                assert run.process.poll() is None, run.process.communicate()[0]
                time.sleep(0.05)
            await_motion(run, deadline_s)
            os.kill(process.pid, number)
            fault_ns = time.monotonic_ns()
            came_again = _watch_after(run, process, fault_ns)
        finally:
            run.process.kill()  # whose processes end with it; nobody draws a report
            run.process.communicate()
            deadline_s = time.monotonic() + LIMIT_S
            while run.pids() and time.monotonic() < deadline_s:
                time.sleep(0.05)
    assert held_after_s(run.recording(), fault_ns) < TIME_TO_LIVE_S + SLACK_S
    assert "intent_stale" in reasons(run.recording())
    assert came_again is (number is signal.SIGSTOP), "new intents came, in vain"


# ---------------------------------------------------------------- two machines


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them; skipped where that is not permitted."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (iproute2)")
    here, there = (f"syvla-{os.getpid()}-{name}" for name in "ab")
    try:
        for name in (here, there):
            made = _ip("netns", "add", name)
            if made.returncode != 0:
                pytest.skip(f"network namespaces are not permitted: {made.stderr.strip()}")
        made = _ip("link", "add", "cable-a", "netns", here, "type", "veth", "peer", "name", "cable-b", "netns", there)
        if made.returncode != 0:
            pytest.skip(f"no veth pair: {made.stderr.strip()}")
        for name, end, host in ((here, "cable-a", 1), (there, "cable-b", 2)):
            for words in (("addr", "add", f"10.211.7.{host}/24", "dev", end), ("link", "set", end, "up")):
                done = _ip("-n", name, *words)
                assert done.returncode == 0, done.stderr
        yield here, there
    finally:
        for name in (here, there):
            _ip("netns", "del", name)


ROBOT = """
import sys, time
from pathlib import Path
from tests.apps.test_remote_planner import RobotSide
side = RobotSide(sys.argv[1], Path(sys.argv[2]))
told = None
while True:
    known = len(side.intents)
    side.turn()
    if len(side.intents) > known:
        print("intent", side.ages_s[-1], flush=True)
    if side.end.trouble != told:
        told = side.end.trouble
        print("link", told or "connected", flush=True)
"""


def _await(process: "subprocess.Popen[str]", word: str, count: int = 1) -> list[str]:
    """Read what the robot's side says until ``word`` has come so often."""
    assert process.stdout is not None
    said: list[str] = []
    deadline_s = time.monotonic() + LIMIT_S
    while sum(line.startswith(word) for line in said) < count:
        line = process.stdout.readline()
        assert line, f"it ended: {said}"
        assert time.monotonic() < deadline_s, f"{word!r} never came: {said[-5:]}"
        said.append(line.strip())
    return said


@pytest.mark.parametrize("delay_ms", [0, 40])
def test_between_two_machines_an_unplugged_cable_is_noticed_and_intents_flow_again_when_it_is_back(
    machines: tuple[str, str], keys: Path, delay_ms: int
) -> None:
    here, there = machines
    if delay_ms:
        words = ["tc", "-n", here, "qdisc", "add", "dev", "cable-a", "root", "netem", "delay", f"{delay_ms}ms"]
        delayed = subprocess.run(words, capture_output=True, text=True, check=False)
        if delayed.returncode != 0:
            pytest.skip(f"this kernel adds no delay to a cable: {delayed.stderr.strip()}")
    with planner("tcp://10.211.7.2:5570", keys, "ip", "netns", "exec", there):
        argv = ["ip", "netns", "exec", here, sys.executable, "-c", ROBOT, "tcp://10.211.7.2:5570", str(keys)]
        side = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        try:
            ages_s = [float(line.split()[1]) for line in _await(side, "intent", 10) if line.startswith("intent")]
            assert min(ages_s) > 0.05 + delay_ms * 1e-3, "the age has the whole way in it"
            _ip("-n", here, "link", "set", "cable-a", "down")
            _await(side, "link silent")
            _ip("-n", here, "link", "set", "cable-a", "up")
            _await(side, "link connected")
            _await(side, "intent", 5)
        finally:
            side.kill()
            side.communicate()
