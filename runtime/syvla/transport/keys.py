"""The key files of a link to another machine: a folder of our own with a pair, and the public keys of others.

    own.key_secret    mode 0600, never leaves the machine
    own.key           its public half, to be given to the other side
    allowed/*.key     on the planner's machine: the robots that may connect
    planner.key       on the robot's: the planner that it connects to

The files are those of ``zmq.auth``: text, with keys as 40 characters of Z85.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.auth
from zmq.utils import z85

from syvla.errors import ConfigError, TransportError
from syvla.transport.addresses import check_private

SECRET, PUBLIC, ALLOWED, PLANNER = "own.key_secret", "own.key", "allowed", "planner.key"
MAX_KEY_FILE = 16 * 1024  # bytes


class KeyPair(NamedTuple):
    """A public key and its secret, in Z85."""

    public: bytes
    secret: bytes


class PlannerKeys(NamedTuple):
    """What the planner's end needs."""

    own: KeyPair
    allowed: frozenset[bytes]  # public keys of the robots


class RobotKeys(NamedTuple):
    """What the robot's end needs."""

    own: KeyPair
    planner: bytes  # its public key


def make_keys(folder: Path) -> KeyPair:
    """Make ``folder`` with a new pair of keys in it.

    Raises:
        ConfigError: there is a pair already: it is never overwritten.
        TransportError: the folder is not ours alone, or cannot be written.
    """
    public, secret = zmq.curve_keypair()
    pair = KeyPair(public, secret)
    taken = next((folder / name for name in (SECRET, PUBLIC) if os.path.lexists(folder / name)), None)
    if taken is not None:
        raise ConfigError(f"{taken} is there already; keys are never overwritten: move it away first")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(folder)
        (folder / ALLOWED).mkdir(mode=0o700, exist_ok=True)
        _write(folder / SECRET, _text(public, secret), 0o600)
        _write(folder / PUBLIC, _text(public), 0o644)
    except OSError as error:
        raise TransportError(f"{folder}: {error.strerror}") from error
    return pair


def own_keys(folder: Path) -> KeyPair:
    """The pair in ``folder``; ConfigError or TransportError if it is not there, not whole, or open to others."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no folder of keys; 'syvla keys {folder}' makes one")
    check_private(folder)
    path = folder / SECRET
    public, secret = _read(path)
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise TransportError(f"{path}: must be a file of user {os.geteuid()} with mode 0600")
    if secret is None or zmq.curve_public(secret) != public:
        raise ConfigError(f"{path}: does not hold a secret key and its public one")
    return KeyPair(public, secret)


def planner_keys(folder: Path) -> PlannerKeys:
    """The keys of the planner's end; ConfigError if no robot is allowed to connect."""
    own = own_keys(folder)
    allowed = frozenset(public_key(path) for path in sorted((folder / ALLOWED).glob("*.key")))
    if not allowed:
        raise ConfigError(f"{folder / ALLOWED}: nobody may connect; put a robot's {PUBLIC} there as NAME.key")
    return PlannerKeys(own, allowed)


def robot_keys(folder: Path) -> RobotKeys:
    """The keys of the robot's end; ConfigError if the planner's public key is missing."""
    own = own_keys(folder)
    if not (folder / PLANNER).exists():
        raise ConfigError(f"{folder / PLANNER} is missing; put the planner's {PUBLIC} there under this name")
    return RobotKeys(own, public_key(folder / PLANNER))


def public_key(path: Path) -> bytes:
    """The key of somebody else in ``path``; ConfigError if it is no key file, or holds a secret."""
    public, secret = _read(path)
    if secret is not None:
        raise ConfigError(f"{path}: holds a secret key; only {PUBLIC} may be given away")
    return public


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        if path.stat().st_size > MAX_KEY_FILE:
            raise ConfigError(f"{path}: is not a key file")
        public, secret = zmq.auth.load_certificate(path)
        for key in (public, *(() if secret is None else (secret,))):
            if len(key) != 40 or len(z85.decode(key)) != 32:
                raise ValueError("a key must be 40 characters of Z85")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'no such file'}") from error
    except (ValueError, KeyError, ArithmeticError) as error:
        raise ConfigError(f"{path}: is not a key file ({error})") from error
    return public, secret


def _text(public: bytes, secret: bytes | None = None) -> str:
    lines = ["metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    return "\n".join((*lines, ""))


def _write(path: Path, text: str, mode: int) -> None:
    """A new file that was never readable by anybody else than ``mode`` says."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "w") as file:
        file.write(text)
