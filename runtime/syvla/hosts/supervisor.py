"""Starts the processes of a run, notices at once when one dies, and stops them so that the arms hold.

A process that dies is reported and stays dead: motion never resumes by itself.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TERM_LIMIT_S = 4.0  # above the two seconds that a stage has to come to rest
KILL_LIMIT_S = 2.0
# Processes that share few cores get one thread each for their linear algebra.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Exited(NamedTuple):
    """A process that ended."""

    name: str
    returncode: int  # negative: the signal that killed it
    log_tail: str

    @property
    def reason(self) -> str:
        """In words."""
        if self.returncode < 0:
            return f"{self.name} was killed by {signal.Signals(-self.returncode).name}"
        return f"{self.name} exited with {self.returncode}"


class _Child(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]
    pidfd: int


class Supervisor:
    """Runs ``commands`` (name -> argv), each with its output in ``log_folder/<name>.log``."""

    def __init__(self, commands: Mapping[str, Sequence[str]], log_folder: Path) -> None:
        self._commands = dict(commands)
        self._log_folder = log_folder
        self._children: dict[str, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self.exited: list[Exited] = []

    @property
    def running(self) -> tuple[str, ...]:
        """The names of the processes that live."""
        return tuple(self._children)

    def start(self) -> None:
        """Start every process, each in a session of its own so that Ctrl-C reaches only us."""
        for name, argv in self._commands.items():
            with (self._log_folder / f"{name}.log").open("xb") as log:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **ONE_THREAD},
                )
            child = _Child(name, process, os.pidfd_open(process.pid))
            self._children[name] = child
            self._selector.register(child.pidfd, selectors.EVENT_READ, name)

    def poll(self, timeout_s: float = 0.0) -> list[Exited]:
        """The processes that ended since the last call."""
        ended = []
        for key, _ in self._selector.select(timeout_s):
            ended.append(self._reap(key.data))
        return ended

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process: for fault tests."""
        self._children[name].process.send_signal(number)

    def pid(self, name: str) -> int:
        """The process id of ``name``."""
        return self._children[name].process.pid

    def stop(self, order: Sequence[str]) -> list[Exited]:
        """End the processes one after the other in ``order`` (the rest afterwards); nobody survives."""
        names = (*order, *(name for name in self._children if name not in order))
        return [self._end(name) for name in names if name in self._children]

    def close(self) -> None:
        """Stop whatever still lives."""
        self.stop(())
        self._selector.close()

    def _end(self, name: str) -> Exited:
        process = self._children[name].process
        process.send_signal(signal.SIGCONT)  # a stopped process could not end
        process.terminate()
        try:
            process.wait(TERM_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(KILL_LIMIT_S)
        return self._reap(name)

    def _reap(self, name: str) -> Exited:
        child = self._children.pop(name)
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        deadline_s = time.monotonic() + KILL_LIMIT_S
        returncode = child.process.wait(max(0.0, deadline_s - time.monotonic()))
        log = (self._log_folder / f"{name}.log").read_text(errors="replace")
        exited = Exited(name, returncode, log[-2000:])
        self.exited.append(exited)
        return exited
