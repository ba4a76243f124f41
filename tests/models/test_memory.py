"""Training keeps the memory that it frees."""

import subprocess
import sys

import pytest

# Two tensors' worth of pages, given back and taken again: how often the kernel had to find a page.
_PAGES = """
import resource, sys, torch
from syvla_models.train.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.ones(4_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own setting")
def test_a_tensor_s_pages_are_there_for_the_next_one() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", _PAGES, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert 4 * faults("keep") < faults("give back")
