"""Where a bus may live: ipc in a directory of our own, tcp on loopback, and with keys tcp anywhere."""

import os
import re
import stat
import tempfile
from pathlib import Path

from syvla.errors import TransportError

MAX_PATH = 100  # of a Unix socket; the kernel's limit is 107
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_LOOPBACK = re.compile(r"tcp://(127\.0\.0\.1|\[::1\]):(\*|\d{1,5})")
_HOST = r"\*|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?\]"
_ANYWHERE = re.compile(rf"tcp://({_HOST}):(\*|\d{{1,5}})")


def ipc_directory(run_id: str) -> Path:
    """The directory of a run's ipc sockets, created with mode 0700 when it does not exist.

    It lies in ``$XDG_RUNTIME_DIR`` where the system made one for us, else in the directory for temporary files.

    Raises:
        TransportError: the name is not a plain one, or the directory is somebody else's, open to others or a link.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise TransportError(f"run_id {run_id!r} must be 1 to 40 letters, digits, '_', '-' or '.'")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    parent = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    path = parent / f"syvla-{os.geteuid()}-{run_id}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror}") from error
    check_private(path)
    _check_length(path / ("x" * 16))  # room for a name
    return path


def check_address(address: str, encrypted: bool = False) -> str:
    """``address`` if a bus may use it.

    Raises:
        TransportError: it leaves this machine without being ``encrypted``, or its ipc directory is not ours alone.
    """
    if address.startswith("ipc://"):
        path = Path(address[len("ipc://") :])
        if not path.is_absolute():
            raise TransportError(f"{address}: an ipc address must be an absolute path")
        _check_length(path)
        check_private(path.parent)
        return address
    if is_loopback(address) or (encrypted and _ANYWHERE.fullmatch(address)):
        return address
    if encrypted:
        raise TransportError(f"{address}: must be ipc:///path or tcp://host:port")
    raise TransportError(
        f"{address}: must be ipc:///path or tcp://127.0.0.1:port; "
        "beyond the loopback interface encrypted links are required, which take keys"
    )


def is_loopback(address: str) -> bool:
    """Whether ``address`` is one of tcp that no other machine reaches."""
    return _LOOPBACK.fullmatch(address) is not None


def check_private(directory: Path) -> None:
    """TransportError unless ``directory`` is one, belongs to this user and is closed to everybody else."""
    try:
        status = directory.lstat()
    except OSError as error:
        raise TransportError(f"{directory}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise TransportError(f"{directory}: must be a directory, not a link or a file")
    if status.st_uid != os.geteuid():
        raise TransportError(f"{directory}: must belong to user {os.geteuid()}, not {status.st_uid}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise TransportError(f"{directory}: must have mode 0700, not {stat.S_IMODE(status.st_mode):04o}")


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_PATH:
        raise TransportError(f"{path}: must have at most {MAX_PATH} characters")
