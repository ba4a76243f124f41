"""The whole loop as processes at real time, and what happens when one of them dies or hangs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from syvla.apps.replay_verify import verify
from syvla.messages import JointCommand, Mode, SafetyState, Source
from syvla.recording.mcap_read import Recording, read
from syvla.rig import open_bus
from syvla.runs import RunFolder

MOVING_RAD_S, MOVED_RAD = 0.8, 0.15  # a joint is on its way at that speed, and has come so far
SLACK_S = 0.05  # of a noisy machine, beyond the deadlines of the fault table


class Run(NamedTuple):
    """A demo that is under way."""

    process: subprocess.Popen[str]
    parent: Path

    @property
    def folder(self) -> Path:
        (folder,) = self.parent.iterdir()
        return folder

    def pid(self, stage: str) -> int:
        found = self.pids().get(stage)
        assert found is not None, f"no process of {stage}"
        return found

    def pids(self) -> dict[str, int]:
        """The stages' processes, found by their command lines."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if str(self.folder).encode() in words and b"stage" in words:
                found[words[words.index(b"stage") + 1].decode()] = int(entry.name)
        return found

    def recording(self) -> Path:
        (path,) = set((self.folder / "recordings").glob("*.mcap*")) - set((self.folder / "recordings").glob("fault-*"))
        return path

    def finish(self, timeout_s: float = 60.0) -> int:
        self.process.communicate(timeout=timeout_s)
        assert self.pids() == {}, "a process was left behind"
        return self.process.returncode


def start(parent: Path, *tasks: str, flags: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A demo of ``tasks``, one after the other."""
    arguments = [sys.executable, "-m", "syvla.cli", "demo", "--policy", "reference"]
    arguments += ["--tasks", *tasks, "--runs", str(parent), *flags]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def await_motion(run: Run, deadline_s: float) -> None:
    """Return while an arm is moving fast.

    A fixed time after the start was not that: once the demonstrator moved one arm at a time, three seconds fell on a
    grasp, where everything stands, and every fault of this file struck arms that had nothing to stop.
    """
    inlet, outlet = open_bus(RunFolder(run.folder).load(), "bystander", ("command",))  # a place on the bus that is free
    first: JointCommand | None = None
    last: JointCommand | None = None
    try:
        while True:
            assert time.monotonic() < deadline_s, "the arms never moved"
            time.sleep(0.01)
            for received in inlet.drain():
                command = received.message
                assert isinstance(command, JointCommand)
                first = first or command
                if last is not None and command.commanded_ns > last.commanded_ns:
                    moved = abs(command.position_rad - first.position_rad).max()
                    step_rad = abs(command.position_rad - last.position_rad).max()
                    if moved > MOVED_RAD and step_rad > MOVING_RAD_S * (command.commanded_ns - last.commanded_ns) / 1e9:
                        return
                last = command
    finally:
        inlet.close()
        outlet.close()


@contextmanager
def under_way(parent: Path, *tasks: str, flags: Sequence[str] = ()) -> Iterator[Run]:
    """A demo whose arms are moving."""
    run = Run(start(parent, *tasks, flags=flags), parent)
    try:
        deadline_s = time.monotonic() + 30
        while not list(parent.glob("*/recordings/*.mcap*")):
            assert time.monotonic() < deadline_s, "no recording was started"
            assert run.process.poll() is None, run.process.communicate()[0]
            time.sleep(0.02)
        await_motion(run, deadline_s)
        yield run
    finally:
        run.process.kill()
        run.process.communicate()
        for pid in run.pids().values():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Run]:
    """A demo of one task whose arms are moving."""
    with under_way(tmp_path, "snack_loading") as run:
        yield run


def commands(path: Path) -> list[JointCommand]:
    return [entry.message for entry in read(path) if isinstance(entry.message, JointCommand)]


def held_after_s(path: Path, fault_ns: int) -> float:
    """From the fault to the hold; the policy must have been moving the arms before, and never again afterwards."""
    every = commands(path)
    before = [c for c in every if c.commanded_ns < fault_ns]
    assert before[-1].provenance.source is Source.POLICY
    assert max(abs(before[-1].position_rad - before[0].position_rad)) > 0.1, "the arms never moved"
    held = next(c.commanded_ns for c in every if c.commanded_ns >= fault_ns and c.provenance.source is Source.HOLD)
    after = [c for c in every if c.commanded_ns > held]
    assert after, "the recording ends before the hold"
    assert all(c.provenance.source is Source.HOLD for c in after)
    return (held - fault_ns) * 1e-9


def reasons(path: Path) -> set[str]:
    states = [entry.message for entry in read(path) if isinstance(entry.message, SafetyState)]
    return {reason.code for state in states if state.mode is Mode.HOLD for reason in state.reasons}


def strike(run: Run, stage: str, number: signal.Signals) -> int:
    os.kill(run.pid(stage), number)
    return time.monotonic_ns()


def test_ctrl_c_holds_the_arms_closes_the_recording_and_leaves_no_process(demo: Run) -> None:
    time.sleep(2.0)  # what the robot remembers is recorded once a second: from then on its steps can be made again
    fault_ns = time.monotonic_ns()
    demo.process.send_signal(signal.SIGINT)
    assert demo.finish() == 1
    assert demo.recording().suffix == ".mcap", "the recording was not closed"
    assert held_after_s(demo.recording(), fault_ns) < 0.1 + SLACK_S
    (robot,) = verify(Recording(demo.recording()), ("robot",), print)
    assert robot.steps > 50
    assert robot.exact, "every tick again, to the bit, up to the stop"
    assert robot.until_ns > fault_ns + 50_000_000, "also those in which the arms came to rest"
    assert (demo.folder / "summary.json").is_file()
    assert list(demo.folder.glob("*.mp4"))
    assert list(demo.folder.glob("*.png"))


@pytest.mark.parametrize(
    ("stage", "number", "within_s", "cause"),
    [
        ("planner", signal.SIGKILL, 1.0, "intent_stale"),
        ("planner", signal.SIGSTOP, 1.0, "intent_stale"),
        ("expert", signal.SIGKILL, 0.1, "process_lost"),
        ("expert", signal.SIGSTOP, 1.0, "intent_stale"),
        ("cameras", signal.SIGSTOP, 1.0, "intent_stale"),
        ("twin", signal.SIGSTOP, 0.05, "feedback_stale"),
        ("cameras", signal.SIGKILL, 0.2, "process_lost"),
    ],
)
def test_a_dead_or_hung_process_holds_the_arms_in_time(
    demo: Run, stage: str, number: signal.Signals, within_s: float, cause: str
) -> None:
    fault_ns = strike(demo, stage, number)
    assert demo.finish() == (1 if number is signal.SIGKILL else 0)
    assert held_after_s(demo.recording(), fault_ns) < within_s + SLACK_S
    assert cause in reasons(demo.recording())


def test_the_policy_runs_without_a_controller_but_not_without_the_process_that_waits_for_one(tmp_path: Path) -> None:
    with under_way(tmp_path, "snack_loading", flags=("--joystick",)) as run:
        fault_ns = strike(run, "teleop", signal.SIGKILL)
        assert run.finish() == 1
        assert held_after_s(run.recording(), fault_ns) < 0.1 + SLACK_S
        assert "process_lost" in reasons(run.recording())


def test_after_a_death_the_next_episode_does_not_resume_the_arms(tmp_path: Path) -> None:
    """With another episode waiting, the director gave "resume" half a second after the hold for a dead expert."""
    with under_way(tmp_path, "snack_loading", "math_packaging") as run:
        fault_ns = strike(run, "expert", signal.SIGKILL)
        assert run.finish() == 1
        assert held_after_s(run.recording(), fault_ns) < 0.1 + SLACK_S


def test_when_the_supervisor_is_killed_the_arms_hold_and_nobody_lives_on(demo: Run) -> None:
    fault_ns = time.monotonic_ns()
    demo.process.kill()
    demo.process.wait()
    deadline_s = time.monotonic() + 10
    while demo.pids():
        assert time.monotonic() < deadline_s, f"still alive: {demo.pids()}"
        time.sleep(0.05)
    assert held_after_s(demo.recording(), fault_ns) < 0.1 + SLACK_S


def test_when_the_recorder_dies_the_robot_goes_on(demo: Run) -> None:
    inlet, outlet = open_bus(
        RunFolder(demo.folder).load(), "bystander", ("command",)
    )  # a place on the bus that is free
    try:
        fault_ns = strike(demo, "recorder", signal.SIGKILL)
        sources = set()
        while time.monotonic_ns() < fault_ns + 1_000_000_000:
            time.sleep(0.01)
            for received in inlet.drain():
                command = received.message
                assert isinstance(command, JointCommand)
                if command.commanded_ns > fault_ns:
                    sources.add(command.provenance.source)
        assert sources == {Source.POLICY}
    finally:
        inlet.close()
        outlet.close()
    assert demo.finish() == 1


@pytest.mark.parametrize("after_s", [0.2, 1.0, 2.0])
def test_ctrl_c_during_the_start_leaves_nothing_behind(tmp_path: Path, after_s: float) -> None:
    run = Run(start(tmp_path, "snack_loading"), tmp_path)
    time.sleep(after_s)
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGINT)  # an impatient operator
    run.process.communicate(timeout=30)
    assert run.process.returncode in (1, 130, -signal.SIGINT)  # the last two: before the run began
    if list(tmp_path.iterdir()):
        assert run.pids() == {}


def test_a_second_ctrl_c_does_not_keep_the_arms_from_holding(demo: Run) -> None:
    fault_ns = time.monotonic_ns()
    for _ in range(3):
        demo.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    demo.finish()
    assert held_after_s(demo.recording(), fault_ns) < 0.1 + SLACK_S
