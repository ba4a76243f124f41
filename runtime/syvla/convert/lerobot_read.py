"""Reads a LeRobotDataset v3 of anybody: row by row, within bounds, by the format's own paths only."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from syvla.clock import NS_PER_S
from syvla.convert import lerobot_layout as layout
from syvla.convert import parquet
from syvla.convert.files import camera_names, identity, read_file, safe_name
from syvla.convert.lerobot_video import video_frames
from syvla.convert.pictures import jpeg_or_pixels
from syvla.convert.rows import COLUMNS, FIRST_NS, Facts, Frame, Grid, Row, Stamped, in_metres, messages_of
from syvla.digest import text_sha256
from syvla.errors import RecordingError
from syvla.messages import CameraFrame

MAX_TASK = 1024  # characters, as of a Task
_INDICES = ("frame_index", "episode_index", "task_index")
_ZEROS = np.zeros(len(COLUMNS))


class Place(NamedTuple):
    """Where one episode is."""

    number: int
    length: int
    data: Path
    videos: dict[str, tuple[Path, float]]  # of each camera: the file, and from when on [s] in it


class LeRobotDataset:
    """A data set on disk. ``episodes`` are its places; no row is read yet.

    Raises:
        RecordingError: It is not a v3 data set of two arms with grippers, or its tables do not agree.
    """

    def __init__(self, root: Path, cameras: Mapping[str, str] | None = None, gripper_unit_m: float = 1.0) -> None:
        self.root = root
        self.gripper_unit_m = gripper_unit_m
        where = str(root / layout.INFO)
        self.info = layout.checked_info(read_file(root / layout.INFO, parquet.MAX_META_BYTES), where)
        keys = [name for name, feature in self.info.features.items() if feature.dtype in ("video", "image")]
        named = {key.removeprefix(layout.IMAGE_PREFIX): key for key in keys}
        self.cameras = {ours: named[theirs] for ours, theirs in camera_names(list(named), cameras, where).items()}
        features = self.info.features
        self.sizes = {key: layout.image_size(features[key], f"{where}: {key}") for key in self.cameras.values()}
        self.orders = {
            name: layout.column_order(features[name], f"{where}: {name}") for name in layout.VECTORS if name in features
        }
        self.tasks = _tasks(root / layout.TASKS)
        self.extra = _extra(root / layout.EXTRA)
        total = self.info.total_episodes
        self.episodes = list(itertools.islice(self._places(), total + 1))
        if len(self.episodes) != total:
            found = "more" if len(self.episodes) > total else len(self.episodes)
            raise RecordingError(f"{where}: says {total} episodes, meta/episodes has {found}")

    def is_video(self, key: str) -> bool:
        """Whether the camera's images are a video, not image files in the table."""
        return self.info.features[key].dtype == "video"

    def _places(self) -> Iterator[Place]:
        videos = {camera: f"videos/{key}" for camera, key in self.cameras.items() if self.is_video(key)}
        whole = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        whole += [f"{video}/{field}" for video in videos.values() for field in ("chunk_index", "file_index")]
        seconds = [f"{video}/from_timestamp" for video in videos.values()]
        for path in sorted((self.root / "meta/episodes").glob("chunk-*/file-*.parquet")):
            for batch in parquet.batches(path, [*whole, *seconds]):
                found = {
                    name: parquet.numbers(batch, name, path, name in whole).tolist() for name in (*whole, *seconds)
                }
                for i in range(len(batch)):
                    yield self._place({name: values[i] for name, values in found.items()}, videos, path)

    def _place(self, row: Mapping[str, float], videos: Mapping[str, str], path: Path) -> Place:
        def index(name: str, most: int) -> int:
            value = int(row[name])
            if not 0 <= value <= most:
                raise RecordingError(f"{path}: {name} must be 0..{most}, not {value}")
            return value

        def file(template: str, prefix: str, **more: str) -> Path:
            found = template.format(
                chunk_index=index(f"{prefix}/chunk_index", 10**6),
                file_index=index(f"{prefix}/file_index", 10**6),
                **more,
            )
            return self.root / found

        films = {}
        for camera, prefix in videos.items():
            from_s = row[f"{prefix}/from_timestamp"]
            if not 0.0 <= from_s <= 1e7:
                raise RecordingError(f"{path}: {prefix}/from_timestamp must be seconds, not {from_s!r}")
            films[camera] = file(layout.VIDEO_PATH, prefix, video_key=self.cameras[camera]), from_s
        length = index("length", 10**8)
        if length < 1:
            raise RecordingError(f"{path}: an episode has no rows")
        return Place(index("episode_index", 10**6), length, file(layout.DATA_PATH, "data"), films)


class LeRobotEpisode:
    """One episode of a data set."""

    def __init__(self, dataset: LeRobotDataset, place: Place) -> None:
        self._dataset = dataset
        self._place = place
        files = (place.data, *(path for path, _ in place.videos.values()))
        digest = text_sha256(" ".join(_identity(file) for file in files))
        self.origin = f"{identity(dataset.root / layout.INFO)} episode {place.number} of {digest[:16]}"
        self.name, self._outcome, self._run = f"episode_{place.number:06d}", "", ""
        self.fps: int | None = dataset.info.fps
        extra = dataset.extra
        if extra is not None and place.number < len(extra.episodes):
            said, self._outcome, which = extra.episodes[place.number]
            self.name, self._run = safe_name(said), extra.runs.get(which, "")

    @cached_property
    def facts(self) -> Facts:
        """Its outcome is what we noted of it, else what its rows say where they do."""
        return Facts(tuple(self._dataset.cameras), self._outcome or self._success(), self._run)

    def _success(self) -> str:
        path, name = self._place.data, layout.SUCCESS
        if name not in self._dataset.info.features:
            return ""
        found = False
        for batch in parquet.batches(path, ["episode_index", name], self._place.number):
            mine = parquet.numbers(batch, "episode_index", path, True) == self._place.number
            found = found or bool(parquet.numbers(batch, name, path)[mine].any())
        return "success" if found else "failure"

    def rows(self, grid: Grid) -> Iterator[Row]:
        """Its rows with their images."""
        data, place = self._dataset, self._place
        images = [key for key in data.cameras.values() if not data.is_video(key)]
        where = f"{place.data} episode {place.number}"
        films = {
            camera: video_frames(path, from_s, data.info.fps, data.sizes[data.cameras[camera]])
            for camera, (path, from_s) in place.videos.items()
        }
        numbers = data_rows(
            place.data,
            place.number,
            place.length,
            data.info.fps,
            data.tasks,
            where,
            grid.instruction,
            images,
            data.orders,
        )
        for i, row in enumerate(numbers):
            frames: dict[str, Frame] = {}
            for camera, key in data.cameras.items():
                if camera in films:
                    rgb = next(films[camera], None)
                    if rgb is None:
                        raise RecordingError(f"{place.videos[camera][0]}: it ends before row {i} of {place.length}")
                    frames[camera] = CameraFrame(camera=camera, frame_id=i, exposure_ns=row.time_ns, rgb=rgb)
                else:
                    told = f"{where}, row {i}: {key}"
                    frames[camera] = jpeg_or_pixels(camera, i, row.time_ns, row.frames[key], data.sizes[key], told)
            yield in_metres(row._replace(frames=frames), data.gripper_unit_m)

    def messages(self, grid: Grid) -> Iterator[Stamped]:
        """What its rows stand for."""
        return messages_of(self.rows(grid))


def _identity(path: Path) -> str:
    """That of a file; a missing one refuses its episode when that is read, and no other."""
    try:
        return identity(path)
    except RecordingError:
        return "missing"


def data_rows(
    path: Path,
    number: int,
    length: int,
    fps: int,
    tasks: Sequence[str],
    where: str,
    instruction: str = "",
    images: Sequence[str] = (),
    orders: Mapping[str, Sequence[int]] = {},
) -> Iterator[Row]:
    """The rows of an episode in the Parquet file at ``path``, without videos; ``orders`` say which value is which.

    Raises:
        RecordingError: Their number, order, times or values are not what the tables say.
    """
    names = parquet.names(path)
    vectors = [name for name in layout.VECTORS if name in names]
    led = next((name for name in layout.INTERVENTIONS if name in names), None)
    wanted = [*vectors, *([led] if led else []), "timestamp", *_INDICES, *images]
    count = 0
    for batch in parquet.batches(path, wanted, number, parquet.MAX_IMAGE_BYTES):
        mine = np.flatnonzero(parquet.numbers(batch, "episode_index", path, True) == number)
        if not len(mine):
            continue
        part = batch.slice(int(mine[0]), int(mine[-1]) - int(mine[0]) + 1)
        found = {name: parquet.vectors(part, name, path, len(COLUMNS)) for name in vectors}
        found |= {name: found[name][:, list(order)] for name, order in orders.items() if name in found}
        found |= {name: parquet.numbers(part, name, path, True) for name in _INDICES}
        found |= {name: parquet.numbers(part, name, path) for name in ("timestamp", *([led] if led else []))}
        shown = {name: parquet.files(part, name, path) for name in images}
        for name in vectors:
            if not np.isfinite(found[name]).all():
                raise RecordingError(f"{where}: {name} has a value that is not finite")
        for i in range(len(part)):
            at_s = float(found["timestamp"][i])
            if int(found["frame_index"][i]) != count or not abs(at_s - count / fps) < 0.5 / fps:
                raise RecordingError(
                    f"{where}: row {count} is frame {int(found['frame_index'][i])} at {at_s:.3f} s; it is due at "
                    f"{count / fps:.3f} s"
                )
            task = int(found["task_index"][i])
            if not 0 <= task < len(tasks):
                raise RecordingError(f"{where}: row {count} has task {task}; there are {len(tasks)}")
            said = tasks[task] or instruction
            if not said:
                raise RecordingError(f"{where}: it does not say what was asked for; give --instruction")
            vector = {name: np.array(found[name][i], np.float64) for name in vectors}
            yield Row(
                time_ns=FIRST_NS + count * NS_PER_S // fps,
                state=vector[layout.STATE],
                velocity=vector.get(layout.VELOCITY, _ZEROS),
                effort=vector.get(layout.EFFORT, _ZEROS),
                action=vector[layout.ACTION],
                frames={name: files[i].as_py() for name, files in shown.items()},
                intervention=bool(found[led][i]) if led else False,
                instruction=said,
            )
            count += 1
    if count != length:
        raise RecordingError(f"{where}: it has {count} rows, not {length}")


def _tasks(path: Path) -> list[str]:
    """The tasks in the order of their index."""
    words = "task" if "task" in parquet.names(path) else "__index_level_0__"
    found: dict[int, str] = {}
    for batch in parquet.batches(path, ["task_index", words]):
        indices = parquet.numbers(batch, "task_index", path, True).tolist()
        found.update(zip(indices, parquet.texts(batch, words, path, MAX_TASK), strict=True))
    if sorted(found) != list(range(len(found))):
        raise RecordingError(f"{path}: tasks must be numbered from 0")
    return [found[i] for i in range(len(found))]


def _extra(path: Path) -> layout.Extra | None:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(read_file(path, parquet.MAX_META_BYTES), type=layout.Extra)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"{path}: {error}") from error
