"""What a figure was measured under."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("syvla", "numpy", "pyzmq", "msgspec", "mujoco", "piper_sdk")


def conditions() -> dict[str, object]:
    """The machine, the load on it, and the versions that matter."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
