"""Writes one episode to one MCAP file: any msgpack reader can read it, and killing the writer loses 0.05 s at most.

While it grows the file is called ``<name>.mcap.partial``; when it is closed it becomes ``<name>.mcap``,
``<name>.discarded.mcap`` (thrown away by the operator, never deleted) or ``<name>.incomplete.mcap`` (a write
failed). Nothing that exists is ever overwritten. The same messages give the same bytes: no wall clock, no
random ids.

Each message is one MCAP message: ``data`` is the frames of the wire, header, body and arrays, each as a
msgpack ``bin``; log time is when it was received, publish time when it was sent.
"""

import fcntl
import functools
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from mcap.writer import CompressionType, Writer

from syvla.errors import RecordingError
from syvla.message import Message
from syvla.protocols import Header
from syvla.topics import TOPICS
from syvla.transport.codec import VERSION, pack_record

PROFILE = "syvla"
LIBRARY = "syvla recording 1"
RUN_METADATA = "run"
OUTCOME_METADATA = "outcome"
PARTIAL = ".partial"
FLUSH_NS = 40_000_000
LOCK_TRIES = 50
MAX_EPISODE_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_LAYOUT = "msgpack bin objects in sequence: header, body, then one for each large array"


def checked_name(name: str) -> str:
    """``name`` if it is safe as a file's name, else RecordingError."""
    if len(name) > MAX_EPISODE_NAME or _NAME.fullmatch(name) is None:
        raise RecordingError(
            f"episode name {name!r}: use 1 to {MAX_EPISODE_NAME} of letters, digits, '.', '_' and '-', "
            "not beginning with '.'"
        )
    return name


def names_taken(folder: Path, name: str) -> bool:
    """Whether ``folder`` already holds a recording of this name, in whatever state."""
    endings = (".mcap", f".mcap{PARTIAL}", ".discarded.mcap", ".incomplete.mcap")
    return any(os.path.lexists(folder / (name + ending)) for ending in endings)


def is_being_written(path: Path) -> bool:
    """Whether a living process has the file at ``path`` open for writing as an episode."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


class McapLog:
    """An episode's file, open for writing.

    Args:
        path: What the file is called in the end; its name must be safe (see ``checked_name``).
        metadata: Facts about the run, written first under ``run``.
        attachments: Texts by name (the configuration), written next.
        chunk_bytes, flush_ns: A chunk is flushed when it is this large, or this old.
        compressed: Whether chunks are compressed, by zstd.

    Raises:
        RecordingError: The name is unsafe or taken, or the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, str],
        attachments: Mapping[str, str] | None = None,
        chunk_bytes: int = 262_144,
        compressed: bool = True,
        flush_ns: int = FLUSH_NS,
    ) -> None:
        if path.suffix != ".mcap":
            raise RecordingError(f"{path}: a recording's name ends in .mcap")
        checked_name(path.name.removesuffix(".mcap"))
        if os.path.lexists(path):
            raise RecordingError(f"{path}: exists already and is not overwritten")
        self.path = path.with_name(path.name + PARTIAL)
        self.messages = 0
        self._final = path
        self._flush_ns = flush_ns
        self._channels: dict[str, tuple[int, type[Message]]] = {}
        self._schemas: dict[str, int] = {}
        self._oldest_ns: int | None = None
        self._file = _WholeWrites(self.path)
        compression = CompressionType.ZSTD if compressed else CompressionType.NONE
        self._writer = Writer(self._file, chunk_size=chunk_bytes, compression=compression)
        try:
            self._writer.start(profile=PROFILE, library=LIBRARY)
            self._writer.add_metadata(RUN_METADATA, dict(metadata))
            for name, text in (attachments or {}).items():
                self._writer.add_attachment(0, 0, name, "text/plain", text.encode())
            self._writer.flush()
        except OSError as error:
            self._file.close()
            self.path.unlink()  # ours, and still empty
            raise self._failure(error) from error
        self._file.commit()

    @property
    def written_bytes(self) -> int:
        """How long the file is now."""
        return self._file.tell()

    def write(
        self, header: Header, kind: type[Message], frames: Sequence[bytes | memoryview], log_time_ns: int
    ) -> None:
        """Append one message: ``frames`` are its body and array frames, ``kind`` the type of the body."""
        envelope = msgspec.msgpack.encode((VERSION, *header, len(frames) - 1))
        data = pack_record([envelope, *frames])
        self.write_record(header.topic, kind, data, log_time_ns, header.sent_ns, header.sequence)

    def write_record(
        self, topic: str, kind: type[Message], data: bytes, log_time_ns: int, sent_ns: int, sequence: int
    ) -> None:
        """Append one message that is packed already."""
        if log_time_ns < 0 or sent_ns < 0:
            raise RecordingError(f"{self.path}: {topic} is stamped before 0, which MCAP cannot hold")
        try:
            channel_id = self._channel(topic, kind)
            self._writer.add_message(channel_id, log_time_ns, data, sent_ns, sequence & 0xFFFFFFFF)
            self.messages += 1
            if self._oldest_ns is None:
                self._oldest_ns = log_time_ns
            elif log_time_ns - self._oldest_ns >= self._flush_ns:
                self.flush()
        except OSError as error:
            raise self._failure(error) from error

    def flush(self) -> None:
        """Hand everything to the kernel: what is written then survives the death of this process."""
        try:
            self._writer.flush()
        except OSError as error:
            raise self._failure(error) from error
        self._file.commit()
        self._oldest_ns = None

    def close(self, outcome: Mapping[str, str], mark: str = "") -> Path:
        """Finish the file with its ``outcome`` and give it its final name: ``<name><mark>.mcap``.

        Raises:
            RecordingError: The end could not be written; call ``abandon``.
        """
        try:
            self._writer.flush()
            self._writer.add_metadata(OUTCOME_METADATA, dict(outcome))
            self._writer.finish()
            self._file.commit()
            self._file.sync()
        except OSError as error:
            raise self._failure(error) from error
        self._file.close()
        return self._rename(mark)

    def abandon(self) -> Path:
        """After a failed write: cut the file behind its last whole chunk and mark it ``.incomplete``."""
        try:
            self._file.cut()
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self._file.close()
        return self._rename(".incomplete")

    # ------------------------------------------------------------ inside

    def _channel(self, topic: str, kind: type[Message]) -> int:
        known = self._channels.get(topic)
        if known is None:
            if topic not in TOPICS:
                raise RecordingError(f"no topic {topic!r}; there are {', '.join(sorted(TOPICS))}")
            name = kind.__name__
            if name not in self._schemas:
                self._schemas[name] = self._writer.register_schema(name, "jsonschema", schema_text(kind))
            notes = {"layout": _LAYOUT, "sent_as": TOPICS[topic].type.__name__, "recorded_as": name}
            known = self._writer.register_channel(topic, "msgpack", self._schemas[name], notes), kind
            self._channels[topic] = known
        elif known[1] is not kind:
            raise RecordingError(f"{topic} is recorded as {known[1].__name__}, not {kind.__name__}")
        return known[0]

    def _rename(self, mark: str) -> Path:
        target = self._final.with_name(self._final.name.removesuffix(".mcap") + mark + ".mcap")
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))  # ours to replace
            self.path.replace(target)
        except OSError as error:
            raise self._failure(error) from error
        self.path = target
        return target

    def _failure(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self.path}: {error.strerror or error}")


class _WholeWrites:
    """An unbuffered file for the MCAP writer: a write is whole or raises, and can be cut back to the last commit."""

    def __init__(self, path: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o644)
        except FileExistsError:
            raise RecordingError(f"{path}: exists already and is not overwritten") from None
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}") from error
        for _ in range(LOCK_TRIES):  # whoever looks whether it is locked has it for an instant
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:  # a file system without locks: only a start beside us would mistake it
                break
        self._at = 0
        self._committed = 0

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            written = os.write(self._fd, left)
            self._at += written
            left = left[written:]
        return len(data)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """Nothing is held back."""

    def commit(self) -> None:
        self._committed = self._at

    def cut(self) -> None:
        os.ftruncate(self._fd, self._committed)
        self._at = self._committed

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@functools.cache
def schema_text(kind: type[Message]) -> bytes:
    """JSON schema of a message's body; its arrays are described by dtype and shape."""
    schema = msgspec.json.schema(kind, schema_hook=lambda _: {"title": "array"})
    for name, definition in schema["$defs"].items():
        arrays = getattr(_struct(kind, name), "ARRAYS", {})
        for field, spec in arrays.items():
            definition["properties"][field] = {
                "title": "array",
                "description": f"dtype {spec.dtype}, shape {spec.shape}",
            }
    return json.dumps(schema, sort_keys=True, separators=(",", ":")).encode()


def _struct(kind: type[Message], name: str) -> type[Message] | None:
    """The message type called ``name`` among ``kind`` and what it contains."""
    return next((t for t in (kind, *Message.__subclasses__()) if t.__name__ == name), None)
