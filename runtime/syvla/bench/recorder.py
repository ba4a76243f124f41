"""What recording costs: three cameras of 640x480 at 30 Hz, arms and commands at 200 Hz, and whether all of it is there.

The recorder is a process of its own, as in a run; this one sends what cameras, robot and console would. The images are
noisy pictures, which a compressor cannot make small. ``states`` has none, ``raw`` writes them as they are, ``jpeg``
encodes them: what it takes more than ``raw`` is what encoding adds.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from syvla.bench.conditions import conditions
from syvla.bench.takeover import running
from syvla.clock import NS_PER_S
from syvla.config import RunConfig
from syvla.errors import SyvlaError
from syvla.message import Message, UInt8
from syvla.messages import (
    ARMS,
    CAMERAS,
    ArmState,
    CameraFrame,
    EpisodeControl,
    JointCommand,
    Provenance,
    RecordingState,
    Source,
)
from syvla.report.summary import summarise
from syvla.rig import open_bus
from syvla.runs import RunFolder, realtime_run
from syvla.transport.bus import Inlet, Outlet

TARGET_CORE = 0.15
KINDS = ("states", "raw", "jpeg")
PERIOD_NS = 5_000_000
FRAME_TICKS = 200 / 30
START_LIMIT_NS, SETTLE_NS = 30_000_000_000, 500_000_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Of one recording."""

    core: float  # of one core, while recording
    lost: int  # messages that were sent and are not in the file
    messages: int
    mb_per_s: float  # of the file


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Alternate the three kinds ``repeats`` times (3 by default); medians."""
    repeats = repeats or (1 if quick else 3)
    seconds = 2.0 if quick else 15.0
    rows: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind in KINDS:
            rows[kind].append(_measure(kind, seconds))
    core = {kind: statistics.median(cost.core for cost in of) for kind, of in rows.items()}
    lost = sum(cost.lost for of in rows.values() for cost in of)
    lines = [
        f"recorder, {kind}: {core[kind]:.1%} of a core, {statistics.median(cost.mb_per_s for cost in of):.1f} MB/s "
        f"on disk, {sum(cost.lost for cost in of)} of {sum(cost.messages for cost in of)} messages lost"
        for kind, of in rows.items()
    ]
    lines.append(
        f"  target: raw at most {TARGET_CORE:.0%} of a core, none lost; encoding adds {core['jpeg'] - core['raw']:+.1%}"
    )
    return {
        "benchmark": "recorder",
        "conditions": conditions(),
        "runs": {kind: [cost._asdict() for cost in of] for kind, of in rows.items()},
        "median_core": core,
        "target_core": TARGET_CORE,
        "reached": core["raw"] <= TARGET_CORE and lost == 0,
    }, lines


def _measure(kind: str, seconds: float) -> Cost:
    config = realtime_run("twin", 0.0, 0.0)
    image_format = "jpeg" if kind == "jpeg" else "raw"
    recorder = msgspec.structs.replace(config.rig.recorder, image_format=image_format, ring_s=0.0)
    config = msgspec.structs.replace(config, rig=msgspec.structs.replace(config.rig, recorder=recorder))
    with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
        folder = RunFolder.create(Path(parent), "recorder")
        folder.save(config)
        commands = {"recorder": folder.commands()["recorder"]}
        try:
            with running(commands, folder.logs) as supervisor:
                busy_s, wall_s, sent = _feed(config, supervisor.pid("recorder"), seconds, images=kind != "states")
        finally:
            shutil.rmtree(config.bus_folder, ignore_errors=True)
        (path,) = folder.recordings.glob("*.mcap")
        topics = summarise(path)["topics"]
        lost = sum(count - topics.get(topic, {"count": 0})["count"] for topic, count in sent.items())
        return Cost(busy_s / wall_s, lost, sum(sent.values()), path.stat().st_size / 1e6 / wall_s)


def _feed(config: RunConfig, pid: int, seconds: float, images: bool) -> tuple[float, float, dict[str, int]]:
    """Send for ``seconds``; the recorder's time on a core, that on the wall, and how many of each topic were sent."""
    inlet, console = open_bus(config, "console", ("recording", "health/recorder"))
    outlets = {"console": console, **{name: open_bus(config, name, ())[1] for name in ("cameras", "robot")}}
    sent: dict[str, int] = {}

    def publish(stage: str, topic: str, message: Message, now_ns: int) -> None:
        outlets[stage].publish(topic, message, now_ns, 0)
        sent[topic] = sent.get(topic, 0) + 1

    def wait_until(due_ns: int) -> None:
        while (ahead_ns := due_ns - time.monotonic_ns()) > 0:
            for outlet in outlets.values():
                outlet.poll()
            time.sleep(min(ahead_ns, 1_000_000) / NS_PER_S)

    try:
        _begin(inlet, console, wait_until)
        pictures = _pictures()
        begun_ns, busy_s = time.monotonic_ns(), _busy_s(pid)
        frames = 0
        for tick in range(round(seconds * NS_PER_S / PERIOD_NS)):
            now_ns = begun_ns + tick * PERIOD_NS
            wait_until(now_ns)
            for topic, message in _states(now_ns, tick).items():
                publish("robot", topic, message, now_ns)
            if images and tick >= frames * FRAME_TICKS:
                rgb = pictures[frames % len(pictures)]
                for camera in CAMERAS:
                    frame = CameraFrame(camera=camera, frame_id=frames, exposure_ns=now_ns, rgb=rgb)
                    publish("cameras", f"camera/{camera}", frame, now_ns)
                frames += 1
        busy_s, wall_s = _busy_s(pid) - busy_s, (time.monotonic_ns() - begun_ns) / NS_PER_S
        wait_until(time.monotonic_ns() + SETTLE_NS)
    finally:
        inlet.close()
        for outlet in outlets.values():
            outlet.close()
    return busy_s, wall_s, sent


def _begin(inlet: Inlet, console: Outlet, wait_until: Callable[[int], None]) -> None:
    """Return once an episode is being recorded, and whoever it is recorded from has been heard."""
    end_ns = time.monotonic_ns() + START_LIMIT_NS
    asked = recording = False
    while not recording:
        now_ns = time.monotonic_ns()
        if now_ns > end_ns:
            raise SyvlaError("the recorder did not begin an episode")
        came = inlet.drain()
        if came and not asked:  # its health: it is there; a second start would be a second file
            asked = True
            wait_until(now_ns + SETTLE_NS)
            console.publish("episode", EpisodeControl(action="start", name="bench", issued_ns=now_ns), now_ns, 0)
        recording = any(isinstance(r.message, RecordingState) and r.message.episode for r in came)
        wait_until(now_ns + PERIOD_NS)
    wait_until(time.monotonic_ns() + SETTLE_NS)


def _states(now_ns: int, tick: int) -> dict[str, Message]:
    """What the robot stage sends in one tick."""
    six = np.sin(tick * 0.01 + np.arange(6.0))
    found: dict[str, Message] = {
        f"arm/{arm}": ArmState(
            arm=arm, measured_ns=now_ns, position_rad=six, velocity_rad_s=-six, effort_nm=0.1 * six,
            gripper_width_m=0.03, enabled=True,
        )
        for arm in ARMS
    }  # fmt: skip
    found["command"] = JointCommand(
        command_id=tick, commanded_ns=now_ns, position_rad=np.tile(six, 2), gripper_width_m=np.full(2, 0.03),
        provenance=Provenance(source=Source.POLICY, chunk_id=tick // 10, chunk_row=tick % 10), intent_age_s=0.3,
        limited_joints=0,
    )  # fmt: skip
    return found


def _pictures() -> list[UInt8]:
    """Smooth pictures under the noise of a camera."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:480, 0:640] / 640
    smooth = np.stack([127 + 90 * np.sin(7 * x + k) * np.cos(5 * y - k) for k in range(3)], axis=2)
    return [np.clip(smooth + random.normal(0, 2, smooth.shape), 0, 255).astype(np.uint8) for _ in range(8)]


def _busy_s(pid: int) -> float:
    """The time that a process has had of any core."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
