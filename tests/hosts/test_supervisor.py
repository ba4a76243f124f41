"""The supervisor: notices deaths at once, leaves no process behind."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from syvla.hosts.supervisor import Supervisor

SLEEP = [sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def wait_for_log(path: Path, text: str) -> None:
    deadline_s = time.monotonic() + 10
    while text not in path.read_text():
        assert time.monotonic() < deadline_s, f"{path} never said {text!r}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_process_is_reported_with_its_log(tmp_path: Path) -> None:
    supervisor = Supervisor({"a": SLEEP, "b": SLEEP}, tmp_path)
    try:
        supervisor.start()
        wait_for_log(tmp_path / "a.log", "hello")
        assert supervisor.poll() == []
        supervisor.kill("a")
        (exited,) = supervisor.poll(timeout_s=5)
        assert exited.reason == "a was killed by SIGKILL"
        assert "hello" in exited.log_tail
        assert supervisor.running == ("b",)
    finally:
        supervisor.close()


@pytest.mark.parametrize("frozen", [False, True])
def test_nobody_survives_a_stop_in_the_order_given(
    tmp_path: Path, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syvla.hosts.supervisor.TERM_LIMIT_S", 0.5)
    supervisor = Supervisor({"a": SLEEP, "stubborn": STUBBORN, "c": SLEEP}, tmp_path)
    supervisor.start()
    wait_for_log(tmp_path / "stubborn.log", "up")
    pids = [supervisor.pid(name) for name in ("a", "stubborn", "c")]
    if frozen:
        supervisor.kill("c", signal.SIGSTOP)
    ended = supervisor.stop(("c", "stubborn"))
    assert [(e.name, e.returncode) for e in ended] == [
        ("c", -signal.SIGTERM),
        ("stubborn", -signal.SIGKILL),
        ("a", -signal.SIGTERM),
    ]
    assert not any(alive(pid) for pid in pids)
    supervisor.close()


def test_a_log_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("precious")
    supervisor = Supervisor({"a": SLEEP}, tmp_path)
    with pytest.raises(FileExistsError):
        supervisor.start()
    supervisor.close()
    assert (tmp_path / "a.log").read_text() == "precious"
