"""Walks over the records of an MCAP file within bounds, whoever wrote it. Nothing is trusted, nothing is executed.

A record that lies about its size is refused; where the file ends too early the walk ends and says so.
"""

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Chunk
from mcap.records import Header as FileHeader

from syvla.errors import RecordingError

MAX_RECORD_BYTES = 64 * 2**20
MAX_CHUNK_BYTES = 64 * 2**20  # uncompressed
MAX_TEXT_BYTES = 2**20  # metadata, attachments, schemas and channels
MAX_CHANNELS = 1024
MAGIC = b"\x89MCAP0\r\n"
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time and publish time [ns]; its data follow
_RECORD = struct.Struct("<BQ")


class Lie(Exception):  # noqa: N818 - never leaves a OneLine
    """The file is not what it says it is."""


class OneLine:
    """Turns whatever a malformed file provokes into one RecordingError."""

    _PROVOKED = (Lie, McapError, struct.error, zstandard.ZstdError, UnicodeDecodeError, OverflowError, KeyError)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Lie):
            raise RecordingError(f"{self._path}: {error}") from None
        if isinstance(error, self._PROVOKED):
            raise RecordingError(f"{self._path}: malformed ({type(error).__name__}: {error})") from error


def open_regular(path: Path) -> BinaryIO:
    """The regular file at ``path`` for reading."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise RecordingError(f"{path}: not a regular file")
        return os.fdopen(fd, "rb")
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error


class Walk:
    """The top-level records of a file of this ``profile`` up to its summary: opcode and length of each.

    At each the file stands at the record's body. Afterwards ``ends_early`` says why the end is missing, or "".
    """

    def __init__(self, file: BinaryIO, profile: str) -> None:
        self._file = file
        self._profile = profile
        self.ends_early = ""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        file = self._file
        size = os.fstat(file.fileno()).st_size
        if file.read(len(MAGIC)) != MAGIC:
            raise Lie("it does not begin as an MCAP file")
        first = True
        while True:
            at = file.tell()
            head = file.read(_RECORD.size)
            opcode, length = _RECORD.unpack(head) if len(head) == _RECORD.size else (0, 0)
            if opcode == 0:  # the end, or a tail of zeros from a power cut
                self.ends_early = f"it ends at byte {at} of {size} without a summary"
                return
            if length > MAX_RECORD_BYTES:
                raise Lie(f"the record at byte {at} claims {length} bytes; at most {MAX_RECORD_BYTES} are allowed")
            body = at + _RECORD.size
            if body + length > size:
                self.ends_early = f"the record at byte {at} is cut off"
                return
            if first:
                profile = FileHeader.read(bounded(file, length, MAX_TEXT_BYTES)).profile
                if opcode != Opcode.HEADER or profile != self._profile:
                    raise Lie(f"its profile is {profile!r}, not {self._profile!r}")
                first = False
            elif opcode == Opcode.DATA_END:
                file.seek(-len(MAGIC), os.SEEK_END)
                self.ends_early = "" if file.read() == MAGIC else "its summary is cut off"
                return
            else:
                yield opcode, length
            file.seek(body + length)


def stream(body: memoryview | bytes) -> ReadDataStream:
    """A record's body, for what parses it."""
    return ReadDataStream(io.BytesIO(body))


def bounded(file: BinaryIO, length: int, limit: int) -> ReadDataStream:
    """The record's body as a stream of its own, so that no inner length reaches beyond it."""
    if length > limit:
        raise Lie(f"a record claims {length} bytes; at most {limit} are allowed")
    return stream(file.read(length))


def chunk_records(body: ReadDataStream) -> Iterator[tuple[int, memoryview]]:
    """Opcode and body of each record in a chunk, unpacked within bounds and checked by its CRC."""
    chunk = Chunk.read(body)
    size = chunk.uncompressed_size
    if size > MAX_CHUNK_BYTES:
        raise Lie(f"a chunk claims {size} bytes; at most {MAX_CHUNK_BYTES} are allowed")
    if chunk.compression == "zstd":
        if zstandard.frame_content_size(chunk.data) not in (size, -1):
            raise Lie("a chunk's compressed data has another size than it claims")
        data = zstandard.ZstdDecompressor().decompress(chunk.data, max_output_size=max(size, 1))
    elif chunk.compression == "":
        data = chunk.data
    else:
        raise Lie(f"compression {chunk.compression!r}; there are 'zstd' and ''")
    if len(data) != size or (chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc):
        raise Lie("a chunk is corrupt: its CRC does not match")
    view, at = memoryview(data), 0
    while at < size:
        opcode, length = _RECORD.unpack_from(view, at)
        at += _RECORD.size
        if at + length > size:
            raise Lie("a record reaches beyond its chunk")
        yield opcode, view[at : at + length]
        at += length
