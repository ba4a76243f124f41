"""What the pages of a Parquet column say of themselves: its footer may say less, and a page is unpacked whole.

A page's header is a struct of Thrift's compact protocol, which pyarrow does not show.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_HEADER_BYTES = 2**16  # with the least and the greatest value
_DEPTH = 8
_BOOLS, _BYTE, _VARINTS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12
_UNPACKED, _PACKED, _DATA, _DATA_V2, _VALUES = 2, 3, 5, 8, 1  # fields of a page's header, and of a data page's own


class Page(NamedTuple):
    """One page: the bytes of its header, its own unpacked, and the values in it (0 of a dictionary)."""

    header: int
    size: int
    values: int


def pages(file: BinaryIO, begin: int, end: int) -> Iterator[Page]:
    """The pages between two places of a file; ValueError if there is anything else."""
    while begin < end:
        file.seek(begin)
        reader = _Thrift(file.read(_HEADER_BYTES))
        found = reader.struct()
        unpacked, packed = found.get((_UNPACKED,), -1), found.get((_PACKED,), -1)
        values = found.get((_DATA, _VALUES), found.get((_DATA_V2, _VALUES), 0))
        if unpacked < 0 or packed < 0 or values < 0:
            raise ValueError("a page has no size")
        yield Page(reader.at, unpacked, values)
        begin += reader.at + packed
    if begin != end:
        raise ValueError("a page goes on behind its column")


class _Thrift:
    """Reads the whole numbers of a struct and of those in it, by the numbers of their fields."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, inside: tuple[int, ...] = ()) -> dict[tuple[int, ...], int]:
        if len(inside) > _DEPTH:
            raise ValueError("a page's header is nested too deep")
        found: dict[tuple[int, ...], int] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else _signed(self._varint())
            self._value(head & 15, (*inside, field), found)
        return found

    def _value(self, kind: int, field: tuple[int, ...], found: dict[tuple[int, ...], int]) -> None:
        if kind in _VARINTS:
            found[field] = _signed(self._varint())
        elif kind == _STRUCT:
            found |= self.struct(field)
        elif kind == _BINARY:
            self._skip(self._varint())
        elif kind in (_BYTE, _DOUBLE):
            self._skip(1 if kind == _BYTE else 8)
        elif kind in _LISTS:
            head = self._byte()
            for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                if head & 15 in _BOOLS:
                    self._skip(1)
                else:
                    self._value(head & 15, (*field, 0), found)
        elif kind not in _BOOLS:
            raise ValueError("a page's header cannot be read")

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a page's header cannot be read")

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise ValueError("a page's header is cut short, or too long")


def _signed(number: int) -> int:
    return number >> 1 ^ -(number & 1)
