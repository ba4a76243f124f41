"""Several processes at a time, and what becomes of them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from syvla.apps.parallel import in_order

_HELD = """
import os, signal, sys, time
from pathlib import Path
from syvla.apps.parallel import in_order

def hold(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60.0)

if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    list(in_order(hold, [sys.argv[1]] * 2, 2))
"""


def squared(number: int) -> int:
    return number * number


def test_results_come_in_order_whatever_the_number_of_jobs() -> None:
    assert list(in_order(squared, range(5), 1)) == list(in_order(squared, range(5), 2)) == [0, 1, 4, 9, 16]


def test_no_process_outlives_the_one_that_was_killed(tmp_path: Path) -> None:
    """Episodes of an evaluation that had been stopped once went on for minutes, beside the next evaluation."""
    script, pids = tmp_path / "held.py", tmp_path / "pids"
    script.write_text(_HELD)
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(pids)])
    end_s = time.monotonic() + 30.0
    while len(list(pids.iterdir())) < 2 and time.monotonic() < end_s:
        time.sleep(0.05)
    workers = [Path("/proc", path.name) for path in pids.iterdir()]
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end_s = time.monotonic() + 5.0
    while any(map(runs, workers)) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not any(map(runs, workers))


def runs(process: Path) -> bool:
    """Whether it is there and not merely waiting for somebody to ask how it ended."""
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except OSError:
        return False
