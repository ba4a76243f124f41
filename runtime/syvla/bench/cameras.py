"""What three RealSense cameras of 640x480 at 30 Hz cost the thread that reads them, and how late their frames come.

Another thread feeds software devices: what USB and the SDK's own conversions cost is not in it, nor any encoding.
"""

import statistics
import threading
import time
from typing import Any

import msgspec
import numpy as np

from syvla.bench.conditions import conditions
from syvla.clock import NS_PER_S
from syvla.config import CamerasConfig
from syvla.extras import check_realsense
from syvla.messages import CAMERAS, CameraFrame
from syvla.rig import REALSENSE_POLL_HZ

TARGET_CORE = 0.10
PERIOD_NS = NS_PER_S // 30
KINDS = {"colour": False, "colour and aligned depth": True}


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Alternate the two kinds ``repeats`` times (3 by default); medians. Depth has no target: it is off by default."""
    check_realsense()
    repeats = repeats or (1 if quick else 3)
    seconds = 1.0 if quick else 3.0
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    for _ in range(repeats):
        for name, depth in KINDS.items():
            rows[name].append(_measure(depth, seconds))
    medians = {name: {key: statistics.median(row[key] for row in of) for key in of[0]} for name, of in rows.items()}
    lines = [
        f"cameras, {name}: {row['core'] * 100:.1f} % of a core, {row['cpu_ms_per_frame']:.2f} ms of it a frame, "
        f"latency p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms, {row['frames_hz']:.1f} frames/s "
        f"(medians of {repeats}{'' if KINDS[name] else f'; target {TARGET_CORE * 100:.0f} %'})"
        for name, row in medians.items()
    ]
    result = {
        "benchmark": "cameras",
        "conditions": conditions(),
        "runs": rows,
        "median": medians,
        "target_core": TARGET_CORE,
        "reached": medians["colour"]["core"] <= TARGET_CORE,
    }
    return result, lines


def _measure(depth: bool, seconds: float) -> dict[str, float]:
    from syvla.drivers.realsense import RealSenseCameras
    from syvla.drivers.realsense_emulator import RealSenseEmulator

    config = CamerasConfig(depth=depth)
    emulator = RealSenseEmulator(CAMERAS, config)
    driver = RealSenseCameras(msgspec.structs.replace(config, serials=emulator.serials), emulator.connected)
    driver.open()
    sent_ns: list[int] = []
    feeder = threading.Thread(target=_feed, args=(emulator, config, seconds, sent_ns))
    latencies_ns: list[int] = []
    feeder.start()
    started_ns, busy_s = time.monotonic_ns(), time.thread_time()
    while feeder.is_alive():
        time.sleep(1.0 / REALSENSE_POLL_HZ)
        frames = driver.read(time.monotonic_ns())
        read_ns = time.monotonic_ns()
        latencies_ns += [read_ns - sent_ns[frame.frame_id] for frame in frames]
    busy_s = time.thread_time() - busy_s
    wall_s = (time.monotonic_ns() - started_ns) / NS_PER_S
    feeder.join()
    driver.close()
    p50_ms, p99_ms = np.quantile(latencies_ns, (0.5, 0.99)) / 1e6
    return {
        "core": busy_s / wall_s,
        "cpu_ms_per_frame": busy_s * 1e3 / len(latencies_ns),
        "p50_ms": float(p50_ms),
        "p99_ms": float(p99_ms),
        "frames_hz": len(latencies_ns) / wall_s,
    }


def _feed(emulator: Any, config: CamerasConfig, seconds: float, sent_ns: list[int]) -> None:
    """Give every camera a picture of noise at 30 Hz."""
    random = np.random.default_rng(0)
    shape = (config.height, config.width)
    rgb = random.integers(0, 255, (*shape, 3), np.uint8)
    depth_mm = random.integers(300, 2000, shape, np.uint16) if config.depth else None
    due_ns = time.monotonic_ns()
    for k in range(round(seconds * NS_PER_S / PERIOD_NS)):
        time.sleep(max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
        due_ns += PERIOD_NS
        now_ns = time.monotonic_ns()
        sent_ns.append(now_ns)
        for camera in CAMERAS:
            emulator.send(CameraFrame(camera=camera, frame_id=k, exposure_ns=now_ns, rgb=rgb, depth_mm=depth_mm))
