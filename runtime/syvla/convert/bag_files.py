"""The files of a ROS 2 bag within bounds: MCAP is walked as our own is, SQLite is looked at before it is read."""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from syvla.errors import RecordingError
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

PROFILE = "ros2"
MAX_TABLES = 64


def mcap_messages(path: Path, topics: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]:
    """Topic, type, log time and data of each message of ``topics``; RecordingError if the file is cut short or lies."""
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str] | None] = {}
    with open_regular(path) as file, OneLine(path):
        walk = Walk(file, PROFILE)
        for opcode, length in walk:
            if opcode == Opcode.CHUNK:
                records = chunk_records(bounded(file, length, MAX_RECORD_BYTES))
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE):
                records = iter([(opcode, memoryview(file.read(length)))])
            else:
                continue
            for kind, body in records:
                if kind == Opcode.SCHEMA:
                    schema = Schema.read(stream(_text(body)))
                    schemas[schema.id] = schema.name
                elif kind == Opcode.CHANNEL:
                    channel = Channel.read(stream(_text(body)))
                    mine = channel.topic in topics
                    if mine and channel.message_encoding != "cdr":
                        raise Lie(f"{channel.topic} is encoded as {channel.message_encoding[:32]!r}, not 'cdr'")
                    channels[channel.id] = (channel.topic, schemas.get(channel.schema_id, "")) if mine else None
                elif kind == Opcode.MESSAGE:
                    channel_id, _, log_ns, _ = MESSAGE.unpack_from(body)
                    known = channels[channel_id]
                    if known is not None:
                        yield *known, log_ns, bytes(body[MESSAGE.size :])
                if len(channels) > MAX_CHANNELS or len(schemas) > MAX_CHANNELS:
                    raise Lie(f"it has more than {MAX_CHANNELS} channels")
        if walk.ends_early:
            raise Lie(f"incomplete: {walk.ends_early}")


def refuse_strange_tables(path: Path) -> None:
    """RecordingError unless the bag's tables are plain ones: a view, trigger or computed column is a program."""
    open_regular(path).close()
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            entries = base.execute("SELECT type, name, sql FROM sqlite_master").fetchmany(MAX_TABLES + 1)
            if len(entries) > MAX_TABLES:
                raise RecordingError(f"{path}: it has more than {MAX_TABLES} tables")
            for kind, name, sql in entries:
                if kind not in ("table", "index") or "VIRTUAL" in str(sql or "").upper()[:64]:
                    raise RecordingError(f"{path}: it has a {kind} {name!r} that is no plain table of a bag")
            for table in ("topics", "messages"):
                columns = base.execute(f"PRAGMA table_xinfo({table})").fetchall()
                if not columns or any(column[6] for column in columns):
                    raise RecordingError(f"{path}: its table {table} is missing or has computed columns")
    except sqlite3.Error as error:
        raise RecordingError(f"{path}: it cannot be read as a ROS 2 bag: {error}") from error


def _text(body: memoryview) -> memoryview:
    if len(body) > MAX_TEXT_BYTES:
        raise Lie(f"a schema or channel has {len(body)} bytes; at most {MAX_TEXT_BYTES} are allowed")
    return body
