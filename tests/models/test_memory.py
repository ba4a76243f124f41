"""Training keeps the memory that it frees."""

import subprocess
import sys

import pytest

_HELD_MIB = """
import sys, torch
from pathlib import Path
from syvla.allocator import keep_freed_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resident_mib()
large = torch.ones(64, 2**18)
del large
print(resident_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own setting")
def test_what_a_tensor_had_is_there_for_the_next_one() -> None:
    def held_mib(how: str) -> float:
        done = subprocess.run([sys.executable, "-c", _HELD_MIB, how], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert held_mib("give back") < 10.0
    assert held_mib("keep") > 50.0
