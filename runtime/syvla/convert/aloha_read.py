"""Reads an ALOHA episode of anybody, row by row. The file is hostile until checked.

Nothing is followed out of it (external and soft links, external storage, virtual datasets are refused), no filter but
three of HDF5's own is run (a plug-in would be code), nothing is an object, and sizes are looked at before anything is
read.
"""

import contextlib
import itertools
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from syvla.clock import NS_PER_S
from syvla.convert import aloha_layout as layout
from syvla.convert.files import camera_names, identity, safe_name
from syvla.convert.pictures import image_size, jpeg_or_pixels
from syvla.convert.rows import (
    COLUMNS,
    FIRST_NS,
    MAX_FPS,
    Facts,
    Frame,
    Grid,
    Row,
    Stamped,
    in_metres,
    messages_of,
    pixels,
)
from syvla.errors import RecordingError
from syvla.message import Array
from syvla.messages import CameraFrame
from syvla.recording.mcap_walk import open_regular
from syvla.standard_messages import MAX_JPEG, MAX_SIDE

MAX_ROWS = 10**7
MAX_CAMERAS = 16
MAX_CHUNK_BYTES = 64 * 2**20
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32"}  # what else there is may be a plug-in, or grows without bounds
_SPARE = 16  # bytes that a checksum adds to a chunk
_BLOCK = 256
_PROVOKED = (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, zlib.error)
_ZEROS = np.zeros(len(COLUMNS))


class AlohaEpisode:
    """One episode. Opening it looks at its shapes.

    Raises:
        RecordingError: It is none, it is cut short, or something in it is not as it must be; the text names it.
    """

    def __init__(
        self, path: Path, cameras: Mapping[str, str] | None = None, gripper_unit_m: float = 1.0, swapped: bool = False
    ) -> None:
        self._path = path
        self._gripper_unit_m = gripper_unit_m
        self._swapped = swapped
        self.origin = identity(path)
        with self._open() as file:
            self._compressed = _flag(file, "compress", path)
            self._length = len(_dataset(file, layout.QPOS, path))
            if not 1 <= self._length <= MAX_ROWS:
                raise RecordingError(f"{path}: it has {self._length} rows; there may be 1..{MAX_ROWS}")
            needed = (layout.QPOS, layout.ACTION)
            self._vectors = [name for name in layout.VECTORS if name in needed or _has(file, name, path)]
            for name in self._vectors:
                self._check(_dataset(file, name, path), name, "f", (self._length, len(COLUMNS)))
            self._led = _has(file, layout.INTERVENTION, path)
            if self._led:
                self._check(_dataset(file, layout.INTERVENTION, path), layout.INTERVENTION, "bu", (self._length,))
            images = _group(file, layout.IMAGES, path) if _has(file, layout.IMAGES, path) else {}
            if len(images) > MAX_CAMERAS:
                raise RecordingError(f"{path}: it has {len(images)} cameras; at most {MAX_CAMERAS} are read")
            self._cameras = camera_names(list(images), cameras, str(path))
            for name in self._cameras.values():
                self._check_images(_dataset(file, f"{layout.IMAGES}/{name}", path), name)
            texts = {name: _text(file, name, most, path) for name, most in layout.TEXTS.items()}
            self.fps = _rate(file, path)
        self._instruction = texts["instruction"]
        self.name = safe_name(texts["name"] or path.name.split(".")[0])
        self.facts = Facts(tuple(self._cameras), texts["outcome"], texts["run"])

    def rows(self, grid: Grid) -> Iterator[Row]:
        """Its rows at ``grid.fps``: the format has no times."""
        instruction = self._instruction or grid.instruction
        if not instruction:
            raise RecordingError(f"{self._path}: it does not say what was asked for; give --instruction")
        with self._open() as file:
            images = {ours: file[f"{layout.IMAGES}/{theirs}"] for ours, theirs in self._cameras.items()}
            for begin in range(0, self._length, _BLOCK):
                end = min(begin + _BLOCK, self._length)
                block = {layout.VECTORS[name]: self._numbers(file, name, begin, end) for name in self._vectors}
                led = np.zeros(end - begin, bool)
                if self._led:
                    led = _read(file[layout.INTERVENTION], begin, end, f"{self._path}: {layout.INTERVENTION}")
                for i in range(end - begin):
                    at_ns = FIRST_NS + (begin + i) * NS_PER_S // grid.fps
                    frames = {camera: self._frame(camera, begin + i, at_ns, data) for camera, data in images.items()}
                    row = Row(
                        time_ns=at_ns,
                        state=block["state"][i],
                        velocity=block["velocity"][i] if "velocity" in block else _ZEROS,
                        effort=block["effort"][i] if "effort" in block else _ZEROS,
                        action=block["action"][i],
                        frames=frames,
                        intervention=bool(led[i]),
                        instruction=instruction,
                    )
                    yield in_metres(row, self._gripper_unit_m)

    def messages(self, grid: Grid) -> Iterator[Stamped]:
        """What its rows stand for."""
        return messages_of(self.rows(grid))

    # ------------------------------------------------------------ inside

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        open_regular(self._path).close()  # a regular file
        try:
            with h5py.File(self._path, "r", locking=False) as file:
                yield file
        except _PROVOKED as error:
            text = str(error).splitlines() or [type(error).__name__]
            raise RecordingError(f"{self._path}: it cannot be read as HDF5: {text[0][:300]}") from error

    def _check(self, found: Any, name: str, kinds: str, shape: tuple[int, ...]) -> None:
        if found.dtype.kind not in kinds or found.shape != shape:
            raise RecordingError(f"{self._path}: {name} must be {shape}, not {found.dtype} {found.shape}")

    def _check_images(self, found: Any, name: str) -> None:
        shape = found.shape
        if self._compressed:
            wanted, right = "rows of JPEG files", len(shape) == 2 and 1 <= shape[1] <= MAX_JPEG
        else:
            wanted, right = "RGB images", len(shape) == 4 and shape[3] == 3
            right = right and 1 <= shape[1] <= MAX_SIDE[0] and 1 <= shape[2] <= MAX_SIDE[1]
        if found.dtype != np.uint8 or not right or shape[0] != self._length:
            raise RecordingError(
                f"{self._path}: {layout.IMAGES}/{name} must be {self._length} {wanted} of uint8, "
                f"not {found.dtype} {shape}"
            )

    def _numbers(self, file: Any, name: str, begin: int, end: int) -> Array:
        values = np.asarray(_read(file[name], begin, end, f"{self._path}: {name}"), np.float64)
        if not np.isfinite(values).all():
            raise RecordingError(f"{self._path}: {name} has a value that is not finite in rows {begin} to {end}")
        return values

    def _frame(self, camera: str, number: int, at_ns: int, found: Any) -> Frame:
        where = f"{self._path}: row {number} of {camera}"
        data = _read(found, number, number + 1, where)[0]
        if self._compressed:
            content = data.tobytes().rstrip(b"\0")
            frame = jpeg_or_pixels(camera, number, at_ns, content, image_size(content, where), where)
        else:
            frame = CameraFrame(camera=camera, frame_id=number, exposure_ns=at_ns, rgb=data)
        if not self._swapped:
            return frame
        rgb = np.ascontiguousarray(pixels(frame)[..., ::-1])
        return CameraFrame(camera=camera, frame_id=number, exposure_ns=at_ns, rgb=rgb)


def _read(found: Any, begin: int, end: int, where: str) -> Any:
    """Some rows, unless a chunk of theirs unpacks to more than a chunk: HDF5 itself would go on without end."""
    if found.compression == "gzip":
        most = int(np.prod(found.chunks)) * found.dtype.itemsize + _SPARE
        first = begin - begin % found.chunks[0]
        for at in itertools.product(
            range(first, end, found.chunks[0]),
            *(range(0, n, step) for n, step in zip(found.shape[1:], found.chunks[1:], strict=True)),
        ):
            size = found.id.get_chunk_info_by_coord(at).size
            if not size:  # never written
                continue
            if size > 2 * most:
                raise RecordingError(f"{where}: a chunk has more than {2 * most} bytes")
            if len(zlib.decompressobj().decompress(found.id.read_direct_chunk(at)[1], most + 1)) > most:
                raise RecordingError(f"{where}: a chunk unpacks to more than the {most} bytes of a chunk")
    return found[begin:end]


def _has(file: Any, path: str, where: Path) -> bool:
    """Whether ``path`` is there; RecordingError if a part of it is a link to elsewhere, which is not followed."""
    group = file
    for part in path.split("/"):
        link = group.get(part, getlink=True)
        if link is None:
            return False
        if not isinstance(link, h5py.HardLink):
            raise RecordingError(f"{where}: {part} of {path} is a link to elsewhere, which is not followed")
        group = group[part]
        if not isinstance(group, h5py.Group):
            return path.endswith(part)
    return True


def _group(file: Any, path: str, where: Path) -> Any:
    found = file[path]
    if not isinstance(found, h5py.Group):
        raise RecordingError(f"{where}: {path} must be a group")
    return found


def _dataset(file: Any, path: str, where: Path) -> Any:
    """A dataset of plain numbers that lies in the file itself and needs no plug-in."""
    if not _has(file, path, where):
        raise RecordingError(f"{where}: it has no {path}")
    found = file[path]
    if not isinstance(found, h5py.Dataset):
        raise RecordingError(f"{where}: {path} must be an array of numbers")
    made = found.id.get_create_plist()  # before its shape is asked for, for which HDF5 may open another file
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise RecordingError(f"{where}: {path} has its data in another file, which is not opened")
    if found.dtype.kind not in "biuf" or not found.shape:
        raise RecordingError(f"{where}: {path} must be an array of numbers")
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    for number in filters:
        if number not in _FILTERS or filters.count(number) > 1:
            known = ", ".join(_FILTERS.values())
            raise RecordingError(f"{where}: {path} has filter {number}; once each there may be {known}")
    if found.chunks and int(np.prod(found.chunks, dtype=np.float64)) * found.dtype.itemsize > MAX_CHUNK_BYTES:
        raise RecordingError(f"{where}: {path} has chunks of more than {MAX_CHUNK_BYTES} bytes")
    return found


def _scalar(file: Any, name: str, kinds: str) -> bool:
    """Whether the root has this attribute, as one plain value."""
    if name not in file.attrs:
        return False
    found = file.attrs.get_id(name)
    return found.shape == () and found.dtype.kind in kinds


def _flag(file: Any, name: str, where: Path) -> bool:
    if name not in file.attrs:
        return False
    if not _scalar(file, name, "biu"):
        raise RecordingError(f"{where}: the attribute {name} must be true or false")
    return bool(file.attrs[name])


def _rate(file: Any, where: Path) -> int | None:
    """The rows a second, a whole number however it is written; None if nothing is said of it."""
    if "fps" not in file.attrs:
        return None
    fps = float(file.attrs["fps"]) if _scalar(file, "fps", "iuf") else 0.0
    if not (1 <= fps <= MAX_FPS and fps.is_integer()):
        raise RecordingError(f"{where}: the attribute fps must be a whole number, 1..{MAX_FPS}")
    return int(fps)


def _text(file: Any, name: str, most: int, where: Path) -> str:
    """A text, as an attribute or an array of bytes; "" if there is none."""
    if _scalar(file, name, "SO"):
        found = file.attrs[name]
        text = found.decode() if isinstance(found, bytes) else found
    elif _has(file, name, where):
        data = _dataset(file, name, where)
        if data.dtype != np.uint8 or data.ndim != 1 or len(data) > 4 * most:
            raise RecordingError(f"{where}: {name} must be a text of at most {most} characters")
        text = _read(data, 0, len(data), f"{where}: {name}").tobytes().decode()
    else:
        return ""
    if not isinstance(text, str) or len(text) > most:
        raise RecordingError(f"{where}: {name} must be a text of at most {most} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # h5py has an escape for each byte that is none
        raise RecordingError(f"{where}: {name} is not UTF-8") from error
    return text
