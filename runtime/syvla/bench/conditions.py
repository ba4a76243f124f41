"""What a figure was measured under, and how far the measuring is."""

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from syvla.apps.director import Outcome

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


def progress(total: int) -> Callable[[Outcome], None]:
    """Says on the error output how each of ``total`` episodes ended."""
    count = 0

    def tell(outcome: Outcome) -> None:
        nonlocal count
        count += 1
        print(f"[{count}/{total}] {outcome.words}", file=sys.stderr, flush=True)

    return tell
