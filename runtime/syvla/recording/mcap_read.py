"""Reads a recording: whole, cut off by a crash, or hostile. Nothing is trusted, nothing is executed.

A file that ends too early is read up to its last whole chunk and says so; a file that is not a recording, or
whose records lie about their sizes, is refused with one RecordingError.
"""

import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Metadata, Schema

from syvla import messages
from syvla.errors import MessageError, RecordingError
from syvla.message import Message
from syvla.messages import CompressedFrame
from syvla.protocols import Header
from syvla.recording.mcap_log import OUTCOME_METADATA, PARTIAL, PROFILE, RUN_METADATA, McapLog, is_being_written
from syvla.recording.mcap_walk import (
    MAX_CHANNELS,
    MAX_RECORD_BYTES,
    MAX_TEXT_BYTES,
    MESSAGE,
    Lie,
    OneLine,
    Walk,
    bounded,
    chunk_records,
    open_regular,
    stream,
)
from syvla.topics import TOPICS
from syvla.transport.codec import decode_body, decode_header, unpack_record

MAX_ATTACHMENTS = 16
CONFIG_ATTACHMENT = "run.json"  # the attachment with the configuration of the run
_log = logging.getLogger(__name__)

_TYPES: dict[str, type[Message]] = {CompressedFrame.__name__: CompressedFrame}
_TYPES.update((row.type.__name__, row.type) for row in TOPICS.values())


class Recorded(NamedTuple):
    """One message of a recording."""

    topic: str
    header: Header
    message: Message
    log_time_ns: int


class RawRecord(NamedTuple):
    """One message of a recording, still packed."""

    topic: str
    kind: type[Message]
    data: bytes
    log_time_ns: int
    sent_ns: int
    sequence: int


class Recording:
    """A recording on disk. Opening it walks over its records without reading the messages.

    Attributes:
        path: The file.
        run: Facts about the run, as the recorder wrote them.
        outcome: How the episode ended; empty when the file ends too early.
        attachments: Texts by name: the configuration.
        ends_early: Why the end is missing, or "" when the file is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run: dict[str, str] = {}
        self.outcome: dict[str, str] = {}
        self.attachments: dict[str, str] = {}
        self.ends_early = ""
        with open_regular(self.path) as file, OneLine(self.path):
            for opcode, length in (walk := Walk(file, PROFILE)):
                if opcode == Opcode.METADATA:
                    record = Metadata.read(bounded(file, length, MAX_TEXT_BYTES))
                    if record.name == RUN_METADATA:
                        self.run = record.metadata
                    elif record.name == OUTCOME_METADATA:
                        self.outcome = record.metadata
                elif opcode == Opcode.ATTACHMENT:
                    attachment = Attachment.read(bounded(file, length, MAX_TEXT_BYTES))
                    self.attachments[attachment.name] = attachment.data.decode()
                    if len(self.attachments) > MAX_ATTACHMENTS:
                        raise Lie(f"it has more than {MAX_ATTACHMENTS} attachments")
            self.ends_early = walk.ends_early

    def __iter__(self) -> Iterator[Recorded]:
        return self.messages()

    def messages(
        self, topics: Collection[str] | None = None, since_ns: int = 0, until_ns: int | None = None
    ) -> Iterator[Recorded]:
        """Every message in the order it was received, of these topics and received in this time only if given.

        What stands behind the first message that was received later is not read.
        """
        for raw in self.records(topics, since_ns, until_ns):
            try:
                recorded = unpacked(raw)
            except MessageError as error:
                raise RecordingError(f"{self.path}: message {raw.sequence} of {raw.topic}: {error}") from error
            yield recorded

    def records(
        self, topics: Collection[str] | None = None, since_ns: int = 0, until_ns: int | None = None
    ) -> Iterator[RawRecord]:
        """As ``messages``, but packed: for copying."""
        schemas: dict[int, str] = {}
        channels: dict[int, tuple[str, type[Message]] | None] = {}
        with open_regular(self.path) as file, OneLine(self.path):
            for opcode, length in Walk(file, PROFILE):
                if opcode != Opcode.CHUNK:
                    continue
                for kind, body in chunk_records(bounded(file, length, MAX_RECORD_BYTES)):
                    if kind == Opcode.MESSAGE:
                        channel_id, sequence, log_ns, sent_ns = MESSAGE.unpack_from(body)
                        channel = channels[channel_id]
                        if until_ns is not None and log_ns > until_ns:
                            return
                        if channel is not None and log_ns >= since_ns:
                            yield RawRecord(*channel, bytes(body[MESSAGE.size :]), log_ns, sent_ns, sequence)
                    elif kind == Opcode.SCHEMA:
                        schema = Schema.read(stream(body))
                        schemas[schema.id] = schema.name
                    elif kind == Opcode.CHANNEL:
                        record = Channel.read(stream(body))
                        channels[record.id] = _channel(record, schemas, topics)
                    if len(channels) > MAX_CHANNELS or len(schemas) > MAX_CHANNELS:
                        raise Lie(f"it has more than {MAX_CHANNELS} channels")

    # ------------------------------------------------------------ inside


def unpacked(raw: RawRecord) -> Recorded:
    """The message of a record; MessageError if it is not well formed."""
    frames = unpack_record(raw.data)
    header, _ = decode_header(frames[0])
    if header.topic != raw.topic:
        raise MessageError(f"a message of {header.topic!r} stands in channel {raw.topic!r}")
    return Recorded(raw.topic, header, decode_body(raw.kind, frames[1:]), raw.log_time_ns)


def read(path: Path, topics: Collection[str] | None = None) -> Iterator[Recorded]:
    """Every message of the recording at ``path`` in the order received; a missing end is logged as a warning."""
    recording = Recording(path)
    if recording.ends_early:
        _log.warning("%s: %s; reading what is there", path, recording.ends_early)
    yield from recording.messages(topics)


def repair(path: Path) -> Path:
    """Write what can be read of a recording without an end to ``<name>.repaired.mcap``; the original stays.

    Where it is damaged, what comes before that is kept.

    Raises:
        RecordingError: It is whole already, is no recording, or the repaired file exists.
    """
    recording = Recording(path)
    if not recording.ends_early:
        raise RecordingError(f"{path}: is whole, there is nothing to repair")
    name = re.sub(r"(\.incomplete)?\.mcap(\.partial)?$", "", path.name)
    log = McapLog(path.with_name(f"{name}.repaired.mcap"), recording.run, recording.attachments)
    records, why = recording.records(), recording.ends_early
    while True:
        try:
            raw = next(records, None)
        except RecordingError as error:
            raw, why = None, str(error)
        try:
            if raw is None:
                return log.close({"outcome": "interrupted", "repaired": why})
            log.write_record(raw.topic, raw.kind, raw.data, raw.log_time_ns, raw.sent_ns, raw.sequence)
        except RecordingError:
            log.abandon()
            raise


def repair_all(folder: Path) -> list[Path]:
    """Repair each recording in ``folder`` whose writer is dead, once; what cannot be is logged. The repaired files."""
    made = []
    for path in sorted(folder.glob(f"*.mcap{PARTIAL}")):
        repaired = path.with_name(path.name.removesuffix(f".mcap{PARTIAL}") + ".repaired.mcap")
        if path.name.endswith(f".repaired.mcap{PARTIAL}") or os.path.lexists(repaired) or is_being_written(path):
            continue
        if shutil.disk_usage(folder).free < 2 * path.stat().st_size:
            _log.warning("%s has no end, and the disk has no room to repair it", path)
            continue
        half = repaired.with_name(repaired.name + PARTIAL)  # of a repair that was itself cut short
        if half.is_file() and not is_being_written(half):
            half.unlink()
        try:
            made.append(repair(path))
            _log.warning("%s had no end: what it holds is in %s", path, repaired.name)
        except RecordingError as error:
            _log.warning("%s could not be repaired: %s", path, error)
    return made


def _channel(
    record: Channel, schemas: dict[int, str], topics: Collection[str] | None
) -> tuple[str, type[Message]] | None:
    """Topic and type of a channel, None if it was not asked for."""
    if record.topic not in TOPICS:
        raise Lie(f"it has a channel {record.topic!r}; there are {', '.join(sorted(TOPICS))}")
    if topics is not None and record.topic not in topics:
        return None
    name = schemas.get(record.schema_id, "")
    if name not in _TYPES:
        raise Lie(f"{record.topic} holds {name!r}; there are {', '.join(sorted(_TYPES))}")
    if name not in (TOPICS[record.topic].type.__name__, *_instead(record.topic)):
        raise Lie(f"{record.topic} holds {name}, not {TOPICS[record.topic].type.__name__}")
    return record.topic, _TYPES[name]


def _instead(topic: str) -> tuple[str, ...]:
    return (CompressedFrame.__name__,) if TOPICS[topic].type is messages.CameraFrame else ()
