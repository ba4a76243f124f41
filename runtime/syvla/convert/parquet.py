"""Parquet tables of anybody, within bounds: no more is unpacked at a time than a table that is what it says needs."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from syvla.convert.parquet_pages import pages
from syvla.errors import RecordingError
from syvla.message import Array
from syvla.recording.mcap_walk import open_regular

MAX_META_BYTES = 64 * 2**20
MAX_TEXT_BYTES = 16 * 2**20  # of the texts of one row group, unpacked
MAX_IMAGE_BYTES = 512 * 2**20  # of its images
MAX_WIDTH = 64  # numbers in a row of a column
_BATCH = 64  # rows at a time
_BATCH_BYTES = 64 * 2**20  # that many rows of texts or images, if each were all that its column chunk has
_NUMBER_BYTES = 32  # of one number with what a table notes beside it
_SPARE_BYTES = 2**20
_WIDE = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
_PROVOKED = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[BinaryIO, pq.ParquetFile]]:
    """The file; whatever a malformed one provokes becomes one RecordingError."""
    with open_regular(path) as file:
        try:
            yield (
                file,
                pq.ParquetFile(
                    file,
                    buffer_size=2**20,
                    pre_buffer=False,
                    thrift_string_size_limit=MAX_META_BYTES,
                    thrift_container_size_limit=2**20,
                ),
            )
        except _PROVOKED as error:
            told = str(error).splitlines() or [type(error).__name__]
            raise RecordingError(f"{path}: {told[0]}") from error


def names(path: Path) -> set[str]:
    """What its columns are called."""
    with _open(path) as (_, file):
        return set(file.schema_arrow.names)


def batches(
    path: Path, columns: Sequence[str], episode: int | None = None, wide_bytes: int = MAX_TEXT_BYTES
) -> Iterator[pa.RecordBatch]:
    """The columns, some rows at a time; only of the row groups in which ``episode`` may be, if given.

    Raises:
        RecordingError: A column is missing, or would unpack to more than ``wide_bytes`` of texts or images in a row
            group, or to more numbers than its rows have room for.
    """
    with _open(path) as (content, file):
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise RecordingError(f"{path}: it has no column {missing[0]}")
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        mine = [i for i, group in enumerate(groups) if episode is None or _may_hold(group, episode)]
        widest = max((_widest(groups[i], columns, wide_bytes, path, content) for i in mine), default=0)
        rows = max(1, min(_BATCH, _BATCH_BYTES // max(1, widest)))  # a dictionary may have one text for all rows
        yield from file.iter_batches(rows, row_groups=mine, columns=list(columns), use_threads=False)


def _widest(group: Any, columns: Sequence[str], wide_bytes: int, path: Path, content: BinaryIO) -> int:
    """The most bytes that texts or images of a column have in a row group, within bounds."""
    widest = 0
    for i in range(group.num_columns):
        chunk = group.column(i)
        name = next((n for n in columns if f"{chunk.path_in_schema}.".startswith(f"{n}.")), None)
        if name is None:
            continue
        size = chunk.total_uncompressed_size
        if chunk.physical_type in _WIDE:
            widest, most = max(widest, size), wide_bytes
        elif chunk.num_values > MAX_WIDTH * group.num_rows:
            raise RecordingError(f"{path}: {name} has {chunk.num_values} values in {group.num_rows} rows")
        else:
            most = _NUMBER_BYTES * chunk.num_values + _SPARE_BYTES
        if not 0 <= size <= most:
            raise RecordingError(f"{path}: {name} unpacks to {size} bytes in a row group; at most {most} are read")
        if not _as_it_says(chunk, content):
            raise RecordingError(f"{path}: {name} unpacks to more bytes or values than the file says")
    return widest


def _as_it_says(chunk: Any, content: BinaryIO) -> bool:
    """Whether a column's pages have no more than the footer says of them."""
    begin = chunk.data_page_offset
    if chunk.dictionary_page_offset:  # None or 0: there is none
        begin = min(begin, chunk.dictionary_page_offset)
    size, values = chunk.total_uncompressed_size, chunk.num_values
    for page in pages(content, begin, begin + chunk.total_compressed_size):
        size, values = size - page.size, values - page.values
        if size < 0 or values < 0:
            return False
    return True


def _may_hold(group: Any, episode: int) -> bool:
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == "episode_index":
            found = column.statistics
            if found is None or not found.has_min_max or not isinstance(found.min, int):
                return True
            return bool(found.min <= episode <= found.max)
    return True


def numbers(batch: pa.RecordBatch, name: str, path: Path, whole: bool = False) -> Array:
    """A column of numbers (N,), ``whole`` ones if so; RecordingError if it is anything else."""
    return _plain(batch.column(name), name, path, whole)


def vectors(batch: pa.RecordBatch, name: str, path: Path, width: int) -> Array:
    """A column of ``width`` numbers a row (N, width); RecordingError if it is anything else."""
    column = batch.column(name)
    if isinstance(column.type, pa.ListType | pa.LargeListType):
        right = bool((np.diff(np.asarray(column.offsets)) == width).all())
    else:
        right = isinstance(column.type, pa.FixedSizeListType) and column.type.list_size == width
    if column.null_count:
        raise RecordingError(f"{path}: {name} must be numbers, not {column.type} with {column.null_count} nulls")
    if not right:
        raise RecordingError(f"{path}: {name} must have {width} values in each row")
    return _plain(column.flatten(), name, path, False).reshape(len(batch), width)


def _plain(column: Any, name: str, path: Path, whole: bool) -> Array:
    kind = column.type
    right = pa.types.is_integer(kind)
    if not whole:
        right = right or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if column.null_count or not right:
        wanted = "whole numbers" if whole else "numbers"
        raise RecordingError(f"{path}: {name} must be {wanted}, not {kind} with {column.null_count} nulls")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def texts(batch: pa.RecordBatch, name: str, path: Path, most: int) -> list[str]:
    """A column of texts of at most ``most`` characters; RecordingError if it is anything else."""
    column = batch.column(name)
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            found = [each.as_py() for each in column]
            if all(isinstance(text, str) and len(text) <= most for text in found):
                return found
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path}: {name} has a text that is not UTF-8") from error
    raise RecordingError(f"{path}: {name} must be texts of up to {most} characters")


def files(batch: pa.RecordBatch, name: str, path: Path) -> Any:
    """A column of files, as bytes or as a struct with them under ``bytes``; what else is in that is not looked at."""
    column = batch.column(name)
    if isinstance(column.type, pa.StructType) and column.type.get_field_index("bytes") >= 0:
        column = column.field("bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise RecordingError(f"{path}: {name} must be image files, not {column.type}")
    return column
