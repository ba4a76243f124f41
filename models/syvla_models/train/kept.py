"""Demonstrations that were read once, kept beside their recordings: reading them anew takes 400 times as long.

Every message of a recording is decoded and checked to read it, of which training uses a hundredth. What was read lies
in ``.read/NAME.msgpack`` beside ``NAME.mcap`` and counts as long as the recording, what is wanted of it and the code
that reads it are the same. A folder that cannot be written to is left alone.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from syvla_models.train import episode as reader
from syvla_models.train import grounding
from syvla_models.train.episode import Episode, read_episode

FOLDER = ".read"
_CODE = b"".join(Path(str(module.__file__)).read_bytes() for module in (reader, grounding))


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    episode: Episode


def read_kept(path: Path, cameras: Sequence[str], *, max_image_hz: float, thoughts: bool) -> Episode:
    """What :func:`syvla_models.train.episode.read_episode` reads, from what was kept of it if that still counts."""
    file = path.parent / FOLDER / f"{path.stem}.msgpack"
    key = _key(path, cameras, max_image_hz, thoughts)
    with contextlib.suppress(OSError, ValueError):  # not kept yet, or not in this form
        kept = _decoder.decode(file.read_bytes())
        if kept.key == key:
            return kept.episode
    episode = read_episode(path, cameras, max_image_hz=max_image_hz, thoughts=thoughts)
    with contextlib.suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}")  # several processes may read at a time
        partial.write_bytes(_encoder.encode(_Kept(key, episode)))
        partial.replace(file)
    return episode


def _key(path: Path, *wanted: object) -> str:
    """What has to be the same; of a recording that is not there nothing was kept."""
    with contextlib.suppress(OSError):
        found = path.stat()
        said = msgspec.msgpack.encode((path.name, found.st_size, found.st_mtime_ns, *wanted))
        return hashlib.sha256(said + _CODE).hexdigest()
    return ""


def _packed(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    """An array as its type, shape and bytes."""
    return value.dtype.str, value.shape, value.tobytes()


def _unpacked(_: type, value: Any) -> Any:
    """The array of :func:`_packed`; ValueError if it is none, or has what no recording is read with."""
    kind, shape, data = value
    if np.dtype(kind).kind not in "bif":
        raise ValueError(f"an array of numbers is needed, not of {kind!r}")
    array = np.frombuffer(data, kind).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("a number is not finite")
    return array


_encoder = msgspec.msgpack.Encoder(enc_hook=_packed)
_decoder = msgspec.msgpack.Decoder(_Kept, dec_hook=_unpacked)
