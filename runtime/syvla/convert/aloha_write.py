"""Writes ALOHA episodes, one HDF5 file each, as long as they turn out to be."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from syvla.convert import aloha_layout as layout
from syvla.convert.aloha_read import AlohaEpisode
from syvla.convert.making import Made, Watched, WriteError, check_same, whole_files, writing
from syvla.convert.rows import COLUMNS, Episode, Frame, Grid, Row, jpeg, pixels, size
from syvla.errors import RecordingError
from syvla.message import Array
from syvla.messages import CompressedFrame

BLOCK_ROWS = 256  # of vectors that are written at a time
LEAST_FREE_BYTES = 128 * 2**20
JPEG_BLOCK = 16_384  # bytes; what of a padded row is not written takes no room


class AlohaWriter:
    """Makes episodes in ``folder``; images are JPEG (made with ``jpeg_quality`` if need be), raw if that is 0."""

    unit = "rows"

    def __init__(self, folder: Path, jpeg_quality: int) -> None:
        self._folder = folder
        self._quality = jpeg_quality

    def write(self, number: int, name: str, episode: Episode, grid: Grid, tick: Callable[[], None]) -> Made:
        """Make one episode and read it back."""
        final = self._folder / layout.EPISODE.format(number)
        facts = episode.facts
        watched = Watched(episode.rows(grid), tick)
        with whole_files(final) as (part,):
            with writing(part, RuntimeError), h5py.File(part, "w", libver=("earliest", "v110")) as file:
                self._attributes(file, facts.outcome, name, facts.run, grid.fps)
                rows = _Rows(file, facts.cameras, self._quality)
                for row in watched:
                    self._check_room()
                    rows.add(row)
                ends = watched.ends(str(final))
                rows.finish()
                if len(rows.instructions) != 1:
                    raise RecordingError(
                        f"{episode.origin}: {len(rows.instructions)} things were asked for in it; an ALOHA episode "
                        "has one instruction"
                    )
                file.attrs["instruction"] = rows.instructions[0]
            back = AlohaEpisode(part)
            read = Watched(back.rows(Grid(fps=grid.fps)))
            shown = hashlib.sha256()
            for row in read:
                for camera in facts.cameras:
                    shown.update(_content(row.frames[camera]))
            found = read.ends(str(part))
            check_same(final, ends, found)
            if shown.digest() != rows.shown.digest():
                raise WriteError(f"{final}: was read back with other images")
            for row in (found.first, found.last):
                for frame in row.frames.values():
                    pixels(frame)
        return Made(episode.origin, name, ends.length, facts.outcome)

    def finish(self, made: Callable[[], Iterator[Made]]) -> None:
        """There is nothing beside the episodes."""

    def _check_room(self) -> None:
        """WriteError before the disk is full, which HDF5 does not survive: it cannot close its file then."""
        free = shutil.disk_usage(self._folder).free
        if free < LEAST_FREE_BYTES:
            raise WriteError(f"{self._folder}: cannot be written: the disk has only {free // 2**20} MiB left")

    def _attributes(self, file: Any, outcome: str, name: str, run: str, fps: int) -> None:
        file.attrs["sim"] = False
        file.attrs["compress"] = bool(self._quality)
        file.attrs["fps"] = fps
        file.attrs["name"] = name
        file.attrs["outcome"] = outcome
        if run:  # too long for an attribute of a plain file
            file.create_dataset("run", data=np.frombuffer(run.encode(), np.uint8))


class _Rows:
    """The datasets of an episode, growing."""

    def __init__(self, file: Any, cameras: tuple[str, ...], quality: int) -> None:
        self._file = file
        self._cameras = cameras
        self._quality = quality
        self._count = 0
        self._block: list[Row] = []
        self._lengths: list[list[int]] = []
        self.instructions: list[str] = []
        self.shown = hashlib.sha256()  # of all images
        width = len(COLUMNS)
        for path in layout.VECTORS:
            file.create_dataset(path, (0, width), "f4", maxshape=(None, width), chunks=(BLOCK_ROWS, width))
        file.create_dataset(layout.BASE_ACTION, (0, 2), "f4", maxshape=(None, 2), chunks=(BLOCK_ROWS, 2))
        file.create_dataset(layout.INTERVENTION, (0,), "?", maxshape=(None,), chunks=(BLOCK_ROWS,))
        if quality and cameras:
            shape = (len(cameras), 0)
            file.create_dataset(layout.LENGTHS, shape, "i4", maxshape=(len(cameras), None), chunks=(1, BLOCK_ROWS))

    def add(self, row: Row) -> None:
        """The next row."""
        if row.instruction not in self.instructions:
            self.instructions.append(row.instruction)
        lengths = []
        for camera in self._cameras:
            frame = row.frames[camera]
            data: Array = jpeg(frame, self._quality).jpeg if self._quality else pixels(frame)
            self.shown.update(data.tobytes().rstrip(b"\0") if self._quality else data.tobytes())
            images = self._images(camera, frame)
            lengths.append(len(data))
            images.resize(self._count + 1, axis=0)
            if self._quality:
                if len(data) > images.shape[1]:
                    images.resize(len(data), axis=1)
                images[self._count, : len(data)] = data
            elif data.shape != images.shape[1:]:
                raise RecordingError(f"{camera}: the images change their size to {data.shape[1]}x{data.shape[0]}")
            else:
                images[self._count] = data
        self._lengths.append(lengths)
        self._block.append(row._replace(frames={}))  # which are written already
        self._count += 1
        if len(self._block) == BLOCK_ROWS:
            self.finish()

    def finish(self) -> None:
        """Write the vectors that are not written yet."""
        begin = self._count - len(self._block)
        if not self._block:
            return
        columns = {path: np.array([getattr(row, name) for row in self._block]) for path, name in layout.VECTORS.items()}
        columns[layout.BASE_ACTION] = np.zeros((len(self._block), 2))  # the base is not driven
        columns[layout.INTERVENTION] = np.array([row.intervention for row in self._block])
        for path, values in columns.items():
            self._file[path].resize(self._count, axis=0)
            self._file[path][begin:] = values
        if self._quality and self._cameras:
            lengths = self._file[layout.LENGTHS]
            lengths.resize(self._count, axis=1)
            lengths[:, begin:] = np.array(self._lengths).T
        self._block.clear()
        self._lengths.clear()

    def _images(self, camera: str, frame: Frame) -> Any:
        path = f"{layout.IMAGES}/{camera}"
        if path not in self._file:
            height, width = size(frame)
            if self._quality:
                return self._file.create_dataset(path, (0, 1), "u1", maxshape=(None, None), chunks=(1, JPEG_BLOCK))
            shape = (height, width, 3)
            return self._file.create_dataset(path, (0, *shape), "u1", maxshape=(None, *shape), chunks=(1, *shape))
        return self._file[path]


def _content(frame: Frame) -> bytes:
    return frame.jpeg.tobytes() if isinstance(frame, CompressedFrame) else frame.rgb.tobytes()
