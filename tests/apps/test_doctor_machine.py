"""The doctor on the machine: real-time rights, disk, clock and GPU."""

from pathlib import Path

import msgspec
import pytest
from tests.apps.made_up import made_up, put

from syvla.apps.doctor_machine import (
    clock_findings,
    disk_findings,
    gpu_findings,
    realtime_findings,
    recording_bytes_s,
    space,
    write_speed,
)
from syvla.apps.finding import Finding, State
from syvla.apps.machine import Answer
from syvla.config import RecorderConfig, RigConfig
from syvla.runs import load_rig

TWIN, ROBOT = load_rig("twin"), load_rig("cobot_magic")
REFUSED = "SCHED_OTHER: SCHED_FIFO 50 refused (Operation not permitted; needs rtprio or CAP_SYS_NICE), "
UNLOCKED = "memory not locked (Cannot allocate memory; needs memlock or CAP_IPC_LOCK)"


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def realtime(root: Path, granted: Answer, rig: RigConfig) -> dict[str, Finding]:
    return by_name(list(realtime_findings(made_up(root, {"go_realtime": granted}), rig)))


def test_real_time_rights_are_those_that_were_granted_when_tried(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/status", "Name:\tpython\nCapEff:\t0000000000800000")
    granted = realtime(tmp_path, Answer(0, "SCHED_FIFO 50, memory locked\n"), ROBOT)
    assert granted["realtime.fifo"].state is State.OK
    assert "with CAP_SYS_NICE" in granted["realtime.fifo"].seen
    assert granted["realtime.memory"].state is State.OK


def test_without_real_time_a_robot_does_not_run_and_the_twin_runs_worse(tmp_path: Path) -> None:
    answer = Answer(0, REFUSED + UNLOCKED)
    robot, twin = realtime(tmp_path, answer, ROBOT), realtime(tmp_path, answer, TWIN)
    assert (robot["realtime.fifo"].state, twin["realtime.fifo"].state) == (State.PROBLEM, State.WARNING)
    assert "rtprio 60" in robot["realtime.fifo"].fix
    assert "no CAP_SYS_NICE" in robot["realtime.fifo"].seen
    assert robot["realtime.memory"].state is State.WARNING
    assert "memlock unlimited" in robot["realtime.memory"].fix


@pytest.mark.parametrize("answer", [Answer(1, error="ImportError: zmq"), Answer(None, error="no answer in 30 s")])
def test_rights_that_could_not_be_tried_are_not_taken_for_granted_or_refused(tmp_path: Path, answer: Answer) -> None:
    fifo = realtime(tmp_path, answer, ROBOT)["realtime.fifo"]
    assert (fifo.state, f"could not be tried: {answer.error}" in fifo.seen) == (State.PROBLEM, True)
    assert "rtprio" not in fifo.fix
    assert realtime(tmp_path, answer, TWIN)["realtime.fifo"].state is State.NOT_HERE


def test_memory_alone_may_be_refused(tmp_path: Path) -> None:
    found = realtime(tmp_path, Answer(0, f"SCHED_FIFO 50, {UNLOCKED}"), ROBOT)
    assert (found["realtime.fifo"].state, found["realtime.memory"].state) == (State.OK, State.WARNING)


@pytest.mark.parametrize(
    ("files", "name", "robot", "twin"),
    [
        ({}, "realtime.kernel", State.WARNING, State.NOT_HERE),
        (
            {"proc/version": "Linux version 6.8 PREEMPT_DYNAMIC"},
            "realtime.kernel",
            State.WARNING,
            State.NOT_HERE,
        ),
        ({"proc/version": "Linux version 6.8-rt #1 SMP PREEMPT_RT"}, "realtime.kernel", State.OK, State.OK),
        ({"sys/kernel/realtime": "1"}, "realtime.kernel", State.OK, State.OK),
        ({}, "realtime.governor", State.OK, State.OK),
        ({"cpu0": "performance", "cpu1": "performance"}, "realtime.governor", State.OK, State.OK),
        ({"cpu0": "performance", "cpu1": "powersave"}, "realtime.governor", State.WARNING, State.NOT_HERE),
    ],
)
def test_the_kernel_and_the_governor_only_make_it_worse(
    tmp_path: Path, files: dict[str, str], name: str, robot: State, twin: State
) -> None:
    for file, text in files.items():
        put(
            tmp_path,
            f"sys/devices/system/cpu/{file}/cpufreq/scaling_governor" if file.startswith("cpu") else file,
            text,
        )
    answer = Answer(0, "SCHED_FIFO 50, memory locked")
    assert realtime(tmp_path, answer, ROBOT)[name].state is robot
    assert realtime(tmp_path, answer, TWIN)[name].state is twin


def test_room_and_speed_are_measured_against_a_recording() -> None:
    rate = recording_bytes_s(ROBOT)
    assert rate == pytest.approx(3 * 640 * 480 * 30 * 3 / 10)
    raw = msgspec.structs.replace(ROBOT, recorder=RecorderConfig(image_format="raw"))
    assert recording_bytes_s(raw) == pytest.approx(10 * rate)
    folder = Path("runs")
    states = [space(folder, round(rate * left_s), rate).state for left_s in (30, 600, 7200)]
    assert states == [State.PROBLEM, State.WARNING, State.OK]
    assert [write_speed(folder, times * rate, rate).state for times in (1.5, 2.5)] == [State.WARNING, State.OK]


def test_the_disk_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = by_name(list(disk_findings(TWIN, tmp_path / "not" / "yet")))
    assert found["disk.write"].state in (State.OK, State.WARNING)
    assert str(tmp_path) in found["disk.space"].seen
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_a_problem() -> None:
    found = by_name(list(disk_findings(TWIN, Path("/proc/self"))))
    assert found["disk.write"].state is State.PROBLEM
    assert "--runs" in found["disk.write"].fix


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Answer(0, "yes\n"), State.OK),
        (Answer(0, "no\n"), State.WARNING),
        (Answer(1, error="System has not been booted with systemd"), State.NOT_HERE),
        (Answer(None, error="timedatectl: No such file or directory"), State.NOT_HERE),
    ],
)
def test_the_wall_clock_is_never_a_problem(tmp_path: Path, answer: Answer, state: State) -> None:
    found = by_name(list(clock_findings(made_up(tmp_path, {"timedatectl": answer}))))
    assert found["clock.wall"].state is state
    assert found["clock.monotonic"].state is State.OK


def test_a_slow_clock_source_is_a_warning(tmp_path: Path) -> None:
    put(tmp_path, "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet")
    assert by_name(list(clock_findings(made_up(tmp_path))))["clock.monotonic"].state is State.WARNING


CARD = Answer(0, "NVIDIA RTX 4090, 24564 MiB, 550.90\n")


@pytest.mark.parametrize(
    ("answers", "packages", "states"),
    [
        ({}, {}, (State.NOT_HERE, State.NOT_HERE, State.NOT_HERE)),
        ({}, {"torch": "2.9+cpu", "tensorrt": "10"}, (State.NOT_HERE, State.OK, State.OK)),
        ({"nvidia-smi": Answer(9, error="no devices")}, {}, (State.NOT_HERE, State.NOT_HERE, State.NOT_HERE)),
        (
            {"nvidia-smi": CARD, "torch": Answer(0, '{"version": "2.9+cu126", "cuda": true}')},
            {"torch": "2.9+cu126"},
            (State.OK, State.OK, State.NOT_HERE),
        ),
        (
            {"nvidia-smi": CARD, "torch": Answer(0, '{"version": "2.9+cpu", "cuda": false}')},
            {"torch": "2.9+cpu"},
            (State.OK, State.WARNING, State.NOT_HERE),
        ),
        (
            {"nvidia-smi": CARD, "torch": Answer(1, error="OSError: libcudart")},
            {"torch": "2.9"},
            (State.OK, State.WARNING, State.NOT_HERE),
        ),
    ],
)
def test_a_gpu_is_good_to_have(
    tmp_path: Path, answers: dict[str, Answer], packages: dict[str, str], states: tuple[State, State, State]
) -> None:
    found = by_name(list(gpu_findings(made_up(tmp_path, answers, packages))))
    assert tuple(found[f"gpu.{name}"].state for name in ("device", "torch", "tensorrt")) == states
