"""The doctor looks at the machine: real-time rights, disk, clock, GPU."""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from syvla.apps.finding import Finding, missing, ok, problem, wanting, warning
from syvla.apps.machine import Machine
from syvla.config import RigConfig
from syvla.topics import CAMERAS

LIMITS_FILE = "/etc/security/limits.d/syvla.conf"
_CAP_SYS_NICE = 23  # linux/capability.h
_WRITE_BYTES = 16 << 20
_JPEG_RATIO = 10  # of an uncompressed image to its JPEG, on the safe side
_HOUR_S = 3600.0
_COARSE_S = 1e-6  # a clock this coarse or finer times a 5 ms tick

# ---------------------------------------------------------------- real time

_GO_REALTIME = """
import sys
import syvla.rig  # as much memory as the robot stage's process has
from syvla.config import RealtimeConfig
from syvla.hosts.realtime import go_realtime
print(go_realtime(RealtimeConfig(fifo_priority=int(sys.argv[1]), lock_memory=True)))
"""


def realtime_findings(machine: Machine, rig: RigConfig) -> Iterator[Finding]:
    """What the kernel grants the 200 Hz process; tried as it asks, in a process that then ends."""
    robot = rig.kind != "twin"
    priority = rig.realtime.fifo_priority
    answer = machine.python(_GO_REALTIME, str(priority))
    granted = answer.out.strip()
    rights = f"rtprio limit {_limit(resource.RLIMIT_RTPRIO)}, {'with' if _may_renice(machine) else 'no'} CAP_SYS_NICE"
    allow = f"echo '@syvla - {{}}' | sudo tee -a {LIMITS_FILE}; sudo usermod -aG syvla $USER; log in again"
    if priority == 0:
        yield warning("realtime.fifo", "the rig asks for no SCHED_FIFO", "set realtime.fifo_priority = 50 in the rig")
    elif not granted.startswith("SCHED_"):
        seen = f"it could not be tried: {answer.error or 'no answer'}"
        yield missing("realtime.fifo", seen, "run syvla doctor again when the machine is less busy", needed=robot)
    elif granted.startswith("SCHED_FIFO"):
        yield ok("realtime.fifo", f"SCHED_FIFO {priority} granted; {rights}")
    else:
        seen = f"{granted.rpartition(', memory')[0]}; {rights}"
        fix = f"sudo groupadd -f syvla; {allow.format('rtprio 60')}"
        yield problem("realtime.fifo", seen, fix) if robot else warning("realtime.fifo", seen, fix)
    locked = f"limit {_limit(resource.RLIMIT_MEMLOCK)}"
    if granted.endswith(", memory locked"):
        yield ok("realtime.memory", f"memory locked; {locked}")
    else:
        fix = f"sudo groupadd -f syvla; {allow.format('memlock unlimited')}"
        yield warning("realtime.memory", f"memory cannot be locked; {locked}", fix)
    yield _kernel(machine, robot)
    yield _governor(machine, robot)


def _limit(which: int) -> str:
    soft, _ = resource.getrlimit(which)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def _may_renice(machine: Machine) -> bool:
    for line in (machine.read("/proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            return bool(int(value, 16) >> _CAP_SYS_NICE & 1)
    return False


def _kernel(machine: Machine, robot: bool) -> Finding:
    version = machine.read("/proc/version") or "unknown"
    if machine.read("/sys/kernel/realtime") == "1" or "PREEMPT_RT" in version:
        return ok("realtime.kernel", "PREEMPT_RT")
    seen = f"not PREEMPT_RT: {' '.join(version.split()[:3])}"
    fix = "sudo pro enable realtime-kernel (Ubuntu), or sudo apt-get install linux-image-rt-amd64 (Debian)"
    return wanting("realtime.kernel", seen, fix, wanted=robot)


def _governor(machine: Machine, robot: bool) -> Finding:
    paths = machine.glob("/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    governors = sorted({path.read_text().strip() for path in paths})
    if not governors:
        return ok("realtime.governor", "the kernel does not change the frequency here")
    if governors == ["performance"]:
        return ok("realtime.governor", "performance")
    fix = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return wanting("realtime.governor", ", ".join(governors), fix, wanted=robot)


# ---------------------------------------------------------------- disk


def disk_findings(rig: RigConfig, runs: Path) -> Iterator[Finding]:
    """Room and speed where the runs go, against what a recording takes. Writes 16 MB and removes it."""
    folder = runs.absolute()
    while not folder.is_dir():
        folder = folder.parent
    rate = recording_bytes_s(rig)
    yield space(folder, shutil.disk_usage(folder).free, rate)
    try:
        speed = _write_speed(folder)
    except OSError as error:
        yield problem("disk.write", f"{folder}: {error.strerror}", f"sudo chown $USER {folder}, or give another --runs")
        return
    yield write_speed(folder, speed, rate)


def recording_bytes_s(rig: RigConfig) -> float:
    """What a recording writes in a second, nearly all of it images."""
    raw = 3.0 * rig.cameras.width * rig.cameras.height * rig.cameras.rate_hz * len(CAMERAS)
    return raw if rig.recorder.image_format == "raw" else raw / _JPEG_RATIO


def space(folder: Path, free: int, rate: float) -> Finding:
    """How long the free bytes last at ``rate`` bytes a second."""
    left_s = free / rate
    seen = f"{free / 1e9:.0f} GB free in {folder}, {left_s / _HOUR_S:.1f} h of recordings at {rate / 1e6:.1f} MB/s"
    fix = f"free some space in {folder}, or give another --runs"
    if left_s < 60:
        return problem("disk.space", seen, fix)
    return ok("disk.space", seen) if left_s >= _HOUR_S else warning("disk.space", seen, fix)


def write_speed(folder: Path, speed: float, rate: float) -> Finding:
    """Bytes a second that reached the disk, against those of a recording."""
    seen = f"{speed / 1e6:.0f} MB/s reach the disk, a recording takes {rate / 1e6:.1f}"
    if speed < 2 * rate:
        return warning("disk.write", seen, f"give --runs on a faster disk than that of {folder}")
    return ok("disk.write", seen)


def _write_speed(folder: Path) -> float:
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        begun_s = time.monotonic()
        for _ in range(_WRITE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _WRITE_BYTES / (time.monotonic() - begun_s)


# ---------------------------------------------------------------- clock


def clock_findings(machine: Machine) -> Iterator[Finding]:
    """The monotonic clock, which everything is timed by, and the wall clock, which only people read."""
    resolution_s = time.get_clock_info("monotonic").resolution
    source = machine.read("/sys/devices/system/clocksource/clocksource0/current_clocksource") or "unknown source"
    seen = f"CLOCK_MONOTONIC, {resolution_s * 1e9:.0f} ns, {source}"
    if resolution_s > _COARSE_S:
        yield problem("clock.monotonic", seen, "boot a kernel with CONFIG_HIGH_RES_TIMERS")
    elif source in ("hpet", "acpi_pm"):
        yield warning("clock.monotonic", seen, "reading this source is slow: look in dmesg for why tsc was refused")
    else:
        yield ok("clock.monotonic", seen)
    answer = machine.run(("timedatectl", "show", "--property=NTPSynchronized", "--value"))
    told = answer.out.strip()
    if answer.status != 0 or told not in ("yes", "no"):
        yield missing(
            "clock.wall",
            f"whether the wall clock is synchronised is not told: {answer.error or 'no answer'}",
            "nothing to do: ages are taken on the monotonic clock, the wall clock only names folders",
            needed=False,
        )
    elif told == "yes":
        yield ok("clock.wall", "synchronised")
    else:
        yield warning("clock.wall", "not synchronised", "sudo timedatectl set-ntp true")


# ---------------------------------------------------------------- GPU


class _Torch(msgspec.Struct, frozen=True):
    version: str
    cuda: bool


_ASK_TORCH = """
import json, torch
print(json.dumps(dict(version=torch.__version__, cuda=torch.cuda.is_available())))
"""


def gpu_findings(machine: Machine) -> Iterator[Finding]:
    """The GPU, and whether torch and TensorRT can use it. No rig needs one: the planner may be on another machine."""
    answer = machine.run(("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"))
    elsewhere = "run the planner on a machine with a GPU, if this one's CPU is too slow for it"
    if answer.status != 0 or not answer.out.strip():
        yield missing("gpu.device", f"no NVIDIA GPU: {answer.error or 'none listed'}", elsewhere, needed=False)
        has_gpu = False
    else:
        yield ok("gpu.device", "; ".join(answer.out.strip().splitlines()))
        has_gpu = True
    version = machine.package("torch", "torch")
    if version is None:
        yield missing("gpu.torch", "torch is not installed", "pip install 'syvla[learn]'", needed=False)
    elif not has_gpu:
        yield ok("gpu.torch", f"torch {version} on the CPU")
    else:
        yield _torch_on_gpu(machine, version)
    packages = (("tensorrt", "tensorrt"), ("tensorrt_rtx_bindings", "tensorrt-rtx-cu13-bindings"))
    found = [(module, machine.package(module, name)) for module, name in packages]
    if here := [f"{module} {version}" for module, version in found if version is not None]:
        yield ok("gpu.tensorrt", ", ".join(here))
    else:
        yield missing("gpu.tensorrt", "TensorRT is not installed", "nothing to do: torch runs without", needed=False)


def _torch_on_gpu(machine: Machine, version: str) -> Finding:
    answer = machine.python(_ASK_TORCH)
    torch = answer.decode(_Torch)
    if torch is None:
        return warning(
            "gpu.torch", f"torch {version} does not load: {answer.error}", "pip install --force-reinstall torch"
        )
    if not torch.cuda:
        return warning(
            "gpu.torch",
            f"torch {torch.version} does not see the GPU",
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126",
        )
    return ok("gpu.torch", f"torch {torch.version} sees the GPU")
