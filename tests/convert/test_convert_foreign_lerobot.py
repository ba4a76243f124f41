"""LeRobot data sets as LeRobot itself writes them: episodes that share files, images in the table; and broken ones."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.convert.made import SIZE, picture, run, shown

from syvla.convert.lerobot_layout import DATA_PATH, IMAGE_PREFIX, VIDEO_PATH
from syvla.convert.lerobot_read import LeRobotDataset, LeRobotEpisode
from syvla.convert.parquet_pages import pages
from syvla.convert.rows import Grid
from syvla.errors import RecordingError
from syvla.recording.mcap_read import Recording

FPS, LENGTHS = 50, (20, 23, 21)
VIDEO = IMAGE_PREFIX + "cam_high"
PATH = {"chunk_index": 0, "file_index": 0}
Change = Callable[[dict[str, Any]], None]


def columns() -> dict[str, Any]:
    """The rows of all episodes; state and action tell which."""
    episodes = [e for e, length in enumerate(LENGTHS) for _ in range(length)]
    frames = [i for length in LENGTHS for i in range(length)]
    values = np.array([[e + i / 100] * 14 for e, i in zip(episodes, frames, strict=True)], np.float32)
    return {
        "observation.state": list(values),
        "action": list(values + 1),
        "complementary_info.is_intervention": [5 <= i < 9 for i in frames],
        "timestamp": np.array(frames, np.float32) / FPS,
        "frame_index": frames,
        "episode_index": episodes,
        "index": list(range(len(frames))),
        "task_index": [e % 2 for e in episodes],
    }


def write(root: Path, video: bool = True, change: Change = lambda parts: None) -> Path:
    """Three episodes in one table and one video; ``change`` is given all parts before they are written."""
    table = columns()
    vector, file = (
        {"dtype": "float32", "shape": [14], "names": None},
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    count = len(table["index"])
    kind = {"dtype": "video" if video else "image", "shape": [*SIZE, 3], "names": ["height", "width", "channels"]}
    episodes = [
        {
            "episode_index": e, "length": length, "tasks": [f"task {e % 2}"],
            "data/chunk_index": 0, "data/file_index": 0,
            f"videos/{VIDEO}/chunk_index": 0, f"videos/{VIDEO}/file_index": 0,
            f"videos/{VIDEO}/from_timestamp": sum(LENGTHS[:e]) / FPS,
        }
        for e, length in enumerate(LENGTHS)
    ]  # fmt: skip
    info = {
        "codebase_version": "v3.0", "fps": FPS, "total_episodes": len(LENGTHS), "total_frames": count,
        "data_path": DATA_PATH, "video_path": VIDEO_PATH if video else None, "robot_type": "theirs",
        "features": {"observation.state": vector, "action": vector, VIDEO: kind},
    }  # fmt: skip
    if not video:
        table[VIDEO] = [{"bytes": png(picture(i)), "path": "/etc/passwd"} for i in range(count)]
    tasks = {"task_index": [0, 1], "task": ["task 0", "task 1"]}
    parts: dict[str, Any] = {"info": info, "table": table, "episodes": episodes, "tasks": tasks}
    change(parts)
    for folder in ("meta/episodes/chunk-000", "data/chunk-000", f"videos/{VIDEO}/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(parts["info"]))
    pq.write_table(pa.table(parts["tasks"]), root / "meta/tasks.parquet")
    pq.write_table(pa.Table.from_pylist(parts["episodes"]), root / "meta/episodes/chunk-000/file-000.parquet")
    types = {VIDEO: file} if not video else {}
    arrays = {name: pa.array(values, types.get(name)) for name, values in parts["table"].items()}
    pq.write_table(pa.table(arrays), root / DATA_PATH.format(**PATH), row_group_size=25)
    if video:
        with av.open(str(root / VIDEO_PATH.format(video_key=VIDEO, **PATH)), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "10", "g": "12"})
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            for i in range(count):
                frame = av.VideoFrame.from_ndarray(picture(i), "rgb24")
                frame.pts, frame.time_base = i, Fraction(1, FPS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return root


def png(rgb: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("video", [True, False])
def test_each_episode_gets_its_own_rows_and_frames(tmp_path: Path, video: bool) -> None:
    found = LeRobotDataset(write(tmp_path / "theirs", video))
    begin = 0
    for e, place in enumerate(found.episodes):
        rows = list(LeRobotEpisode(found, place).rows(Grid()))
        assert len(rows) == LENGTHS[e]
        for i, row in enumerate(rows):
            np.testing.assert_array_equal(row.state, np.full(14, np.float32(e + i / 100)))
            assert row.instruction == f"task {e % 2}"
            assert row.intervention == (5 <= i < 9)
            blue = shown(row.frames["cam_high"])[..., 2].astype(float).mean()
            assert abs(blue - (40 + begin + i)) < 0.5 + 1.5 * video
        begin += len(rows)


def test_it_becomes_recordings(tmp_path: Path) -> None:
    status, said = run([write(tmp_path / "theirs")], tmp_path / "out", "mcap")
    assert status == 0, said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"episode_00000{i}.mcap" for i in range(3)]


def _set(part: str, key: Any, value: Any, row: int | None = None) -> Change:
    def change(parts: dict[str, Any]) -> None:
        (parts[part] if row is None else parts[part][row])[key] = value

    return change


def _put(column: str, row: int, value: Any) -> Change:
    def change(parts: dict[str, Any]) -> None:
        parts["table"][column] = [*parts["table"][column]]
        parts["table"][column][row] = value

    return change


def _map(column: str, function: Callable[[Any], Any]) -> Change:
    def change(parts: dict[str, Any]) -> None:
        parts["table"][column] = [function(value) for value in parts["table"][column]]

    return change


def _ragged(parts: dict[str, Any]) -> None:
    """A value too few and then one too many: together they are two rows."""
    state = parts["table"]["observation.state"]
    state[21:23] = [np.zeros(13, np.float32), np.zeros(15, np.float32)]


SIDES = [f"{side}_{part}" for side in ("left", "right") for part in (*(f"joint_{i}" for i in range(6)), "gripper")]


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ([*SIDES[7:], *SIDES[:7]], [*range(7, 14), *range(7)]),
        ({"motors": [*SIDES[7:], *SIDES[:7]]}, [*range(7, 14), *range(7)]),
        ({"axes": SIDES}, list(range(14))),
        (SIDES[::-1], list(range(13, -1, -1))),
        ([f"motor_{i}" for i in range(14)], list(range(14))),
        ({"motors": 3}, list(range(14))),
    ],
)
def test_values_go_by_their_names(tmp_path: Path, names: object, first: list[int]) -> None:
    """A vector with the right arm first is not taken for one with the left arm first."""

    def change(parts: dict[str, Any]) -> None:
        parts["info"]["features"]["observation.state"] = {"dtype": "float32", "shape": [14], "names": names}
        parts["table"]["observation.state"] = [np.arange(14, dtype=np.float32)] * sum(LENGTHS)

    found = LeRobotDataset(write(tmp_path / "theirs", change=change))
    row = next(LeRobotEpisode(found, found.episodes[0]).rows(Grid()))
    assert row.state.tolist() == first
    np.testing.assert_array_equal(row.action, np.full(14, 1.0))


@pytest.mark.parametrize("names", [[*SIDES[:8], *(f"motor_{i}" for i in range(6))], [*SIDES[:7], *SIDES[:7]]])
def test_names_that_tell_only_half_are_refused(tmp_path: Path, names: list[str]) -> None:
    def change(parts: dict[str, Any]) -> None:
        parts["info"]["features"]["action"] = {"dtype": "float32", "shape": [14], "names": names}

    with pytest.raises(RecordingError, match="action must have names of seven values of each arm"):
        LeRobotDataset(write(tmp_path / "theirs", change=change))


@pytest.mark.parametrize("video", [True, False])
def test_images_may_have_their_channels_first(tmp_path: Path, video: bool) -> None:
    def change(parts: dict[str, Any]) -> None:
        parts["info"]["features"][VIDEO] |= {"shape": [3, *SIZE], "names": ["channels", "height", "width"]}

    found = LeRobotDataset(write(tmp_path / "theirs", video, change))
    row = next(LeRobotEpisode(found, found.episodes[0]).rows(Grid()))
    assert shown(row.frames["cam_high"]).shape == (*SIZE, 3)


def test_the_success_that_a_data_set_tells_is_the_outcome(tmp_path: Path) -> None:
    def change(parts: dict[str, Any]) -> None:
        parts["info"]["features"]["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
        episodes = parts["table"]["episode_index"]
        last = [i + 1 == len(episodes) or episodes[i + 1] != e for i, e in enumerate(episodes)]
        parts["table"]["next.success"] = [end and e == 1 for end, e in zip(last, episodes, strict=True)]

    assert run([write(tmp_path / "theirs", change=change)], tmp_path / "out", "mcap")[0] == 0
    outcomes = [Recording(path).outcome["outcome"] for path in sorted((tmp_path / "out").iterdir())]
    assert outcomes == ["failure", "success", "failure"]


def test_a_file_that_is_missing_refuses_its_episodes_only_and_a_changed_one_is_another(tmp_path: Path) -> None:
    root = write(tmp_path / "theirs", change=_set("episodes", "data/file_index", 1, 1))
    found = LeRobotDataset(root)
    before = [LeRobotEpisode(found, place).origin for place in found.episodes]
    status, said = run([root], tmp_path / "out", "mcap")
    assert (status, len(list((tmp_path / "out").iterdir()))) == (2, 2)
    assert "file-001.parquet: No such file" in said
    os.utime(root / DATA_PATH.format(**PATH), (1, 1))
    now = [LeRobotEpisode(found, place).origin for place in found.episodes]
    assert [a == b for a, b in zip(before, now, strict=True)] == [False, True, False]


def _texts_for_lengths(parts: dict[str, Any]) -> None:
    for episode in parts["episodes"]:
        episode["length"] = str(episode["length"])


_NOT_UTF8 = pa.array([b"task 0", b"wipe \xff\xfe"]).view(pa.string())


def read_second(root: Path) -> None:
    """Open the data set and read its second episode."""
    found = LeRobotDataset(root)
    list(LeRobotEpisode(found, found.episodes[1]).rows(Grid()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("episodes", "data/file_index", -1, 1), "data/file_index must be 0..1000000, not -1"),
        (_set("episodes", "length", 10**12, 1), "length must be 0..100000000, not 1000000000000"),
        (_set("episodes", f"videos/{VIDEO}/from_timestamp", 1e300, 1), "from_timestamp must be seconds"),
        (_set("episodes", "length", 24, 1), "episode 1: it has 23 rows, not 24"),
        (_set("tasks", "task_index", [0, 5]), "tasks must be numbered from 0"),
        (_set("tasks", "task", ["x" * 2000, "y"]), "up to 1024 characters"),
        (_put("task_index", 22, 7), "row 2 has task 7; there are 2"),
        (_put("timestamp", 22, 1.0), "row 2 is frame 2 at 1.000 s; it is due at 0.040 s"),
        (_put("frame_index", 22, 3), "row 2 is frame 3"),
        (_put("observation.state", 22, np.full(14, np.nan, np.float32)), "state has a value that is not finite"),
        (_put("observation.state", 22, np.zeros(13, np.float32)), "state must have 14 values in each row"),
        (_put("observation.state", 22, np.zeros(15, np.float32)), "state must have 14 values in each row"),
        (_ragged, "state must have 14 values in each row"),
        (_put("action", 22, None), "action must be numbers"),
        (_map("episode_index", str), "episode_index must be whole numbers, not string"),
        (_map("frame_index", lambda i: float("nan") if i == 2 else float(i)), "frame_index must be whole numbers"),
        (_map("task_index", lambda i: float("inf")), "task_index must be whole numbers, not double"),
        (_texts_for_lengths, "length must be whole numbers, not string"),
        (_set("tasks", "task", _NOT_UTF8), "task has a text that is not UTF-8"),
    ],
)
def test_tables_that_lie_are_refused(tmp_path: Path, change: Change, says: str) -> None:
    root = write(tmp_path / "theirs", change=change)
    with pytest.raises(RecordingError, match=says) as refusal:
        read_second(root)
    assert len(str(refusal.value).splitlines()) == 1


_MEASURE = """
import resource, sys
from pathlib import Path
from syvla.convert.lerobot_read import LeRobotDataset
from syvla.errors import RecordingError
from syvla.recording.mcap_read import Recording
before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    LeRobotDataset(Path(sys.argv[1]))
except RecordingError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb)
"""


@pytest.mark.parametrize(
    ("length", "says"),
    [
        (20_000_000, "task unpacks to 200[0-9]* bytes in a row group; at most 16777216 are read"),
        (4_000_000, "task must be texts of up to 1024 characters"),
    ],
)
def test_one_long_text_for_many_rows_is_not_unpacked_for_each(tmp_path: Path, length: int, says: str) -> None:
    """A file of a kilobyte whose dictionary has one text, which all rows have: 256 MB, were they read at once."""
    root = write(tmp_path / "theirs")
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 64), ["x" * length])
    tasks = pa.table({"task_index": list(range(64)), "task": words})
    pq.write_table(tasks, root / "meta/tasks.parquet", compression="zstd", store_schema=False)
    assert (root / "meta/tasks.parquet").stat().st_size < 10_000
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(root)], capture_output=True, text=True, timeout=60, check=True
    )
    line, grown_kb = done.stdout.splitlines()
    assert re.search(says, line)
    assert int(grown_kb) < 100_000


def test_a_footer_that_says_less_than_there_is_is_not_believed(tmp_path: Path) -> None:
    """The bytes that a column unpacks to are noted twice: in the footer, and at each of its pages."""
    root = write(tmp_path / "theirs")
    path = root / "meta/tasks.parquet"
    tasks = pa.table({"task_index": [0], "task": ["x" * 20_000_000]})
    pq.write_table(tasks, path, compression="zstd", use_dictionary=False, write_statistics=False)
    size = pq.read_metadata(path).row_group(0).column(1).total_uncompressed_size
    content = path.read_bytes()
    assert content.count(varint(size)) == 1
    path.write_bytes(content.replace(varint(size), varint(2**21)))
    assert pq.read_metadata(path).row_group(0).column(1).total_uncompressed_size == 2**21
    with pytest.raises(RecordingError, match="task unpacks to more bytes or values than the file says"):
        LeRobotDataset(root)


def varint(number: int) -> bytes:
    """A number as Thrift writes it, in four bytes."""
    number = number << 1
    return bytes(number >> shift & 127 | (128 if shift < 21 else 0) for shift in (0, 7, 14, 21))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_pages_of_every_kind_are_counted(tmp_path: Path, version: Any, compression: Any) -> None:
    table = pa.table(
        {name: pa.array(values) for name, values in columns().items()} | {"words": ["word"] * sum(LENGTHS)}
    )
    path = tmp_path / "a.parquet"
    pq.write_table(
        table, path, data_page_version=version, compression=compression, data_page_size=64, row_group_size=30
    )
    group = pq.read_metadata(path).row_group(1)
    with path.open("rb") as file:
        for chunk in (group.column(i) for i in range(group.num_columns)):
            begin = chunk.dictionary_page_offset or chunk.data_page_offset
            found = list(pages(file, begin, begin + chunk.total_compressed_size))
            assert sum(page.header + page.size for page in found) == chunk.total_uncompressed_size
            assert sum(page.values for page in found) == chunk.num_values


def test_no_more_episodes_are_read_than_there_should_be(tmp_path: Path) -> None:
    def many(parts: dict[str, Any]) -> None:
        parts["episodes"] = parts["episodes"][:2] * 10_000 + [{**parts["episodes"][2], "length": -1}]

    with pytest.raises(RecordingError, match="says 3 episodes, meta/episodes has more"):
        LeRobotDataset(write(tmp_path / "theirs", change=many))


def test_a_row_of_very_many_numbers_is_not_read(tmp_path: Path) -> None:
    root = write(tmp_path / "theirs", change=_put("action", 22, np.zeros(100_000, np.float32)))
    with pytest.raises(RecordingError, match="action has 100336 values in 25 rows"):
        read_second(root)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"bytes": png(picture(0, (3000, 3000))), "path": ""}, "the image is 3000x3000, not 64x48"),
        ({"bytes": None, "path": "/etc/passwd"}, "must be an image file"),
        ({"bytes": b"\x80\x04cos\nsystem\n", "path": ""}, "the image cannot be read"),
    ],
)
def test_an_image_that_is_not_what_it_should_be_is_refused(tmp_path: Path, content: object, says: str) -> None:
    found = LeRobotDataset(write(tmp_path / "theirs", False, _put(VIDEO, 2, content)))
    with pytest.raises(RecordingError, match=f"row 2: {VIDEO}: {says}"):
        list(LeRobotEpisode(found, found.episodes[0]).rows(Grid()))


@pytest.mark.parametrize(
    "part", [DATA_PATH.format(**PATH), VIDEO_PATH.format(video_key=VIDEO, **PATH), "meta/tasks.parquet"]
)
def test_a_truncated_file_is_refused(tmp_path: Path, part: str) -> None:
    root = write(tmp_path / "theirs")
    os.truncate(root / part, (root / part).stat().st_size // 2)
    status, said = run([root], tmp_path / "out", "mcap")
    assert status == 2
    assert all(line.startswith(f"refused: {root}/{part}") for line in said.splitlines()), said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_playlist_in_the_place_of_a_video_opens_nothing(tmp_path: Path) -> None:
    root = write(tmp_path / "theirs")
    secret = tmp_path / "secret.ts"
    secret.write_bytes(b"x" * 188)
    (root / VIDEO_PATH.format(video_key=VIDEO, **PATH)).write_text(
        f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    )
    found = LeRobotDataset(root)
    with pytest.raises(RecordingError, match="it cannot be read as a video"):
        list(LeRobotEpisode(found, found.episodes[0]).rows(Grid()))
