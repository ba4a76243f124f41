"""What holds for every test."""

import os
import signal
import sys

import pytest

# A shell that runs the tests in the background has them ignore SIGINT, and every process that they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the golden episodes need."""
    parser.addoption("--update-golden", action="store_true", help="record tests/replay/golden anew before comparing")


_STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how it went."""
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End here, past the exit handlers of native libraries.

    This process alone has all of the project's loaded (MuJoCo, torch, ROS, RealSense, SDL, ...), and one of their
    handlers then frees what it should not: after everything had passed, the status was a crash's.
    """
    if _STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_STATUS])
