"""Where a bus may live."""

import os
from pathlib import Path

import pytest

from syvla.errors import TransportError
from syvla.transport.addresses import check_address, ipc_directory, is_loopback


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


def test_the_directory_of_a_run_is_ours_alone(runtime_directory: Path) -> None:
    path = ipc_directory("run-1")
    assert path.parent == runtime_directory
    assert path.stat().st_mode & 0o777 == 0o700
    assert ipc_directory("run-1") == path
    assert check_address(f"ipc://{path}/robot") == f"ipc://{path}/robot"


def test_without_a_runtime_directory_it_lies_among_the_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    temporary = tmp_path_factory.mktemp("t")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert ipc_directory("run-1").parent == temporary


def test_a_directory_open_to_others_is_refused() -> None:
    path = ipc_directory("run-1")
    path.chmod(0o750)
    with pytest.raises(TransportError, match="must have mode 0700, not 0750"):
        ipc_directory("run-1")
    with pytest.raises(TransportError, match="mode 0700"):
        check_address(f"ipc://{path}/robot")


def test_a_link_or_a_file_is_refused(runtime_directory: Path) -> None:
    (runtime_directory / "private").mkdir(mode=0o700)
    link = runtime_directory / f"syvla-{os.geteuid()}-run-1"
    link.symlink_to(runtime_directory / "private")
    with pytest.raises(TransportError, match="not a link"):
        ipc_directory("run-1")
    (runtime_directory / f"syvla-{os.geteuid()}-run-2").write_bytes(b"")
    with pytest.raises(TransportError, match="run-2"):
        ipc_directory("run-2")


def test_a_directory_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ipc_directory("run-1")
    somebody = os.geteuid() + 1
    monkeypatch.setattr("os.geteuid", lambda: somebody)
    with pytest.raises(TransportError, match=f"must belong to user {somebody}"):
        check_address(f"ipc://{path}/robot")


@pytest.mark.parametrize("run_id", ["", "..", "../x", "a/b", "a b", "x" * 41, "\n", "-x", "é"])
def test_a_run_is_a_plain_name(run_id: str) -> None:
    with pytest.raises(TransportError, match="run_id"):
        ipc_directory(run_id)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:5555", "tcp://127.0.0.1:*", "tcp://[::1]:5555"])
def test_loopback_is_allowed(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://192.168.1.2:5555",
        "tcp://localhost.example:5555",
        "tcp://127.0.0.1.example:5555",
        "tcp://127.0.0.1:5555;127.0.0.1:1",
        "tcp://eth0:5555",
        "udp://127.0.0.1:5555",
        "epgm://127.0.0.1:5555",
        "inproc://x",
        "",
    ],
)
def test_beyond_loopback_encryption_is_required(address: str) -> None:
    with pytest.raises(TransportError, match="encrypted links are required"):
        check_address(address)


@pytest.mark.parametrize(
    "address",
    ["tcp://192.168.1.2:5555", "tcp://*:*", "tcp://gpu-box.local:5555", "tcp://[fe80::1%eth0]:5555", "tcp://eth0:1"],
)
def test_an_encrypted_link_may_go_beyond_loopback(address: str) -> None:
    assert check_address(address, encrypted=True) == address
    assert not is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "udp://10.0.0.1:5555",
        "tcp://10.0.0.1",
        "tcp://10.0.0.1:5;10.0.0.2:5",
        "tcp://a b:5",
        "tcp://:5",
        "inproc://x",
        "",
    ],
)
def test_an_encrypted_link_is_tcp_to_a_host_and_port(address: str) -> None:
    with pytest.raises(TransportError, match="tcp://host:port"):
        check_address(address, encrypted=True)


def test_an_ipc_address_is_a_short_absolute_path_in_a_directory_that_exists() -> None:
    with pytest.raises(TransportError, match="absolute"):
        check_address("ipc://robot")
    with pytest.raises(TransportError, match="at most 100"):
        check_address(f"ipc://{ipc_directory('run-1')}/{'x' * 100}")
    with pytest.raises(TransportError, match="No such file"):
        check_address("ipc:///nowhere/robot")
