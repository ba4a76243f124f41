"""Writes a LeRobotDataset v3: for each episode one Parquet file and one H.264 video of each camera.

The format lets several episodes share a file; one file each can be made, read back and resumed by itself, and every
reader of the format finds it by the same tables.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from syvla.convert import lerobot_layout as layout
from syvla.convert.lerobot_read import LeRobotDataset, data_rows
from syvla.convert.lerobot_video import Film, check_video
from syvla.convert.making import Made, Watched, WriteError, check_same, whole_files, writing
from syvla.convert.rows import COLUMNS, Episode, Grid, Row
from syvla.convert.statistics import Numbers, Stats, combined
from syvla.errors import RecordingError

ROBOT_TYPE = "cobot_magic"
GROUP_ROWS = 4096  # of a row group, so that a long episode takes no more memory than a short one
_VECTOR = pa.list_(pa.float32(), len(COLUMNS))
_ROW = np.dtype(
    [(name, "f4", (len(COLUMNS),)) for name in (layout.ACTION, layout.STATE, layout.VELOCITY, layout.EFFORT)]
    + [(name, "?") for name in (layout.INTERVENTION, layout.DONE, layout.SUCCESS)]
    + [("timestamp", "f4")]
    + [(name, "i8") for name in ("frame_index", "episode_index", "index", "task_index")]
)
_SCHEMA = pa.schema(
    [(name, _VECTOR if _ROW[name].subdtype else pa.from_numpy_dtype(_ROW[name])) for name in _ROW.names or ()]
)


class LeRobotWriter:
    """Makes a data set in ``folder``; ``made`` are the episodes that are there already.

    ``outcomes`` says whether it is known of each episode how it ended: a table that only says so of some is none.
    """

    unit = "rows"

    def __init__(self, folder: Path, fps: int, made: Iterator[Made], outcomes: bool) -> None:
        self._schema = _SCHEMA if outcomes else _SCHEMA.remove(_SCHEMA.get_field_index(layout.SUCCESS))
        self._folder = folder
        self._fps = fps
        self._tasks: dict[str, int] = {}
        self._rows = 0
        self._sizes: dict[str, tuple[int, int]] | None = None
        for episode in made:
            self._count(episode)

    def write(self, number: int, name: str, episode: Episode, grid: Grid, tick: Callable[[], None]) -> Made:
        """Make the episode's files; RecordingError if its cameras are not those of the others."""
        facts = episode.facts
        data, videos = self._paths(number, facts.cameras)
        watched = Watched(episode.rows(grid), tick)
        with whole_files(data, *videos.values()) as (data_part, *video_parts):
            success = facts.outcome == "success"
            table = _Table(number, self._rows, dict(self._tasks), self._fps, success, self._schema)
            with writing(data, av.FFmpegError, pa.ArrowException):
                films = {camera: Film(part, self._fps) for camera, part in zip(videos, video_parts, strict=True)}
                with pq.ParquetWriter(data_part, self._schema, compression="snappy") as file:
                    try:
                        for row in watched:
                            for camera, film in films.items():
                                film.add(row.frames[camera])
                            table.add(row, file)
                        ends = watched.ends(str(data))
                        table.finish(file)
                    finally:
                        for film in films.values():
                            film.close()
            sizes = {camera: film.size for camera, film in films.items()}
            if self._sizes is not None and sizes != self._sizes:
                raise RecordingError(
                    f"{episode.origin}: its cameras are {_told(sizes)}, those of the episodes before it "
                    f"{_told(self._sizes)}; a LeRobot data set has the same in all"
                )
            back = Watched(data_rows(data_part, number, ends.length, self._fps, list(table.tasks), str(data_part)))
            for _ in back:
                pass
            check_same(data, ends, back.ends(str(data)))
            for camera, part in zip(videos, video_parts, strict=True):
                check_video(part, ends.length, sizes[camera], films[camera].samples.result())
        stats = table.stats() | {layout.IMAGE_PREFIX + camera: film.pixels.result() for camera, film in films.items()}
        made = Made(episode.origin, name, ends.length, facts.outcome, facts.run, table.used, sizes, stats)
        self._count(made)
        return made

    def finish(self, made: Callable[[], Iterator[Made]]) -> None:
        """Write the tables about all episodes and read the whole back, but for the pixels."""
        meta = self._folder / "meta"
        meta.mkdir(exist_ok=True)
        self._write_episodes(made())
        runs: dict[str, str] = {"": ""}
        episodes = [(each.name, each.outcome, runs.setdefault(each.run, f"run-{len(runs)}")) for each in made()]
        stats = functools.reduce(lambda all_before, one: combined([all_before, one]), (each.stats for each in made()))
        (self._folder / layout.STATS).write_text(json.dumps(stats, indent=4) + "\n")
        pq.write_table(_task_table(tuple(self._tasks)), self._folder / layout.TASKS)
        extra = layout.Extra(episodes, {name: run for run, name in runs.items() if run})
        (self._folder / layout.EXTRA).write_bytes(msgspec.json.encode(extra))
        info = {
            "codebase_version": layout.VERSION,
            "robot_type": ROBOT_TYPE,
            "total_episodes": len(episodes),
            "total_frames": self._rows,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.CHUNK_FILES,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self._fps,
            "splits": {"train": f"0:{len(episodes)}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH if self._sizes else None,
            "features": layout.features(self._sizes or {}, self._fps, layout.SUCCESS in self._schema.names),
        }
        (self._folder / layout.INFO).write_text(json.dumps(info, indent=4) + "\n")
        found = LeRobotDataset(self._folder).episodes
        if sum(each.length for each in found) != self._rows or len(found) != len(episodes):
            raise WriteError(f"{self._folder}: was read back with {len(found)} episodes instead of {len(episodes)}")

    def _count(self, made: Made) -> None:
        for task in made.tasks:
            self._tasks.setdefault(task, len(self._tasks))
        self._rows += made.rows
        self._sizes = made.sizes

    def _paths(self, number: int, cameras: Sequence[str]) -> tuple[Path, dict[str, Path]]:
        chunk, file = layout.file_indices(number)
        data = layout.DATA_PATH.format(chunk_index=chunk, file_index=file)
        videos = {
            camera: self._folder
            / layout.VIDEO_PATH.format(video_key=layout.IMAGE_PREFIX + camera, chunk_index=chunk, file_index=file)
            for camera in cameras
        }
        return self._folder / data, videos

    def _write_episodes(self, made: Iterator[Made]) -> None:
        """``meta/episodes``: where each episode is, and its statistics."""
        path = self._folder / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        file: pq.ParquetWriter | None = None
        begin = 0
        try:
            for number, each in enumerate(made):
                table = pa.Table.from_pylist([self._episode_row(number, begin, each)])
                begin += each.rows
                file = file or pq.ParquetWriter(path, table.schema, compression="snappy")
                file.write_table(table)
        finally:
            if file is not None:
                file.close()

    def _episode_row(self, number: int, begin: int, made: Made) -> dict[str, object]:
        chunk, file = layout.file_indices(number)
        row: dict[str, object] = {
            "episode_index": number,
            "tasks": list(made.tasks),
            "length": made.rows,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": begin,
            "dataset_to_index": begin + made.rows,
        }
        for camera in made.sizes:
            key = f"videos/{layout.IMAGE_PREFIX}{camera}"
            row |= {f"{key}/chunk_index": chunk, f"{key}/file_index": file}
            row |= {f"{key}/from_timestamp": 0.0, f"{key}/to_timestamp": made.rows / self._fps}
        return row | layout.flat_stats(made.stats) | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


class _Table:
    """The rows of one episode as Parquet, with their statistics; the last one is told to be the last."""

    def __init__(
        self, episode: int, begin: int, tasks: dict[str, int], fps: int, success: bool, schema: pa.Schema
    ) -> None:
        self._episode, self._begin, self._fps, self._success = episode, begin, fps, success
        self._schema = schema
        self._group = np.empty(GROUP_ROWS, _ROW)  # made at once: many small arrays would tear the heap to pieces
        self._grouped = 0
        self._count = 0
        self._used: dict[str, None] = {}
        self._stats = {name: Numbers(len(COLUMNS) if name in layout.VECTORS else 1) for name in schema.names}
        self.tasks = tasks

    @property
    def used(self) -> tuple[str, ...]:
        """The tasks of this episode."""
        return tuple(self._used)

    def add(self, row: Row, file: pq.ParquetWriter) -> None:
        """The next row, of which nobody knows yet whether it is the last."""
        if self._count:
            self._end_row(False)
        if self._grouped == GROUP_ROWS:
            self._flush(file)
        self._used[row.instruction] = None
        values = {
            layout.ACTION: row.action,
            layout.STATE: row.state,
            layout.VELOCITY: row.velocity,
            layout.EFFORT: row.effort,
            layout.INTERVENTION: row.intervention,
            "timestamp": self._count / self._fps,
            "frame_index": self._count,
            "episode_index": self._episode,
            "index": self._begin + self._count,
            "task_index": self.tasks.setdefault(row.instruction, len(self.tasks)),
        }
        self._grouped += 1
        self._keep(values)
        self._count += 1

    def finish(self, file: pq.ParquetWriter) -> None:
        """There are no more rows."""
        self._end_row(True)
        self._flush(file)

    def stats(self) -> dict[str, Stats]:
        """Those of the numbers."""
        return {name: numbers.result() for name, numbers in self._stats.items()}

    def _end_row(self, done: bool) -> None:
        self._keep({layout.DONE: done, layout.SUCCESS: done and self._success})

    def _keep(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name not in self._stats:
                continue
            self._group[name][self._grouped - 1] = value
            self._stats[name].add(self._group[name][self._grouped - 1])

    def _flush(self, file: pq.ParquetWriter) -> None:
        columns = []
        for name in self._schema.names:
            values = np.ascontiguousarray(self._group[name][: self._grouped])
            column = pa.array(values.ravel())
            vector = name in layout.VECTORS
            columns.append(pa.FixedSizeListArray.from_arrays(column, len(COLUMNS)) if vector else column)
        file.write_table(pa.table(columns, schema=self._schema))
        self._grouped = 0


def _told(sizes: dict[str, tuple[int, int]]) -> str:
    return ", ".join(f"{camera} {width}x{height}".strip() for camera, (height, width) in sizes.items()) or "none"


def _task_table(tasks: Sequence[str]) -> pa.Table:
    """``meta/tasks.parquet``, whose words are the index for pandas."""
    columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        ],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in columns
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
