"""Keys of a terminal: a real one, of a process of its own."""

import contextlib
import os
import pty
import sys
import termios
import time

from syvla.apps.terminal import pressed_keys

SCRIPT = """
import sys, time
from syvla.apps.terminal import pressed_keys
with pressed_keys() as keys:
    print("none" if keys is None else "ready", flush=True)
    until_s, got = time.monotonic() + 10, ""
    while keys is not None and "q" not in got and chr(0xffff) not in got and time.monotonic() < until_s:
        got += keys()
        time.sleep(0.01)
print(repr(got), flush=True)
"""


def read_until(fd: int, words: bytes) -> bytes:
    got = b""
    until_s = time.monotonic() + 20
    with contextlib.suppress(OSError):  # its last writer is gone
        while words not in got and time.monotonic() < until_s:
            got += os.read(fd, 1024)
    return got


def test_keys_come_one_by_one_without_a_newline_and_the_terminal_is_as_it_was() -> None:
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = ":".join(sys.path)
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT])  # noqa: S606 - this same Python
    try:
        before = termios.tcgetattr(fd)
        assert b"ready" in read_until(fd, b"ready")
        assert not termios.tcgetattr(fd)[3] & termios.ICANON
        os.write(fd, b"s d")
        time.sleep(0.1)
        os.write(fd, b"q")
        assert b"'s dq'" in read_until(fd, b"q'")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert termios.tcgetattr(fd)[3] & termios.ICANON == before[3] & termios.ICANON
    finally:
        os.close(fd)


def test_without_a_terminal_there_are_no_keys() -> None:
    with pressed_keys() as keys:  # pytest gives none
        assert keys is None
