"""What a LeRobotDataset v3 is made of: its files, its features, and the names of what we have in it."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from syvla.convert.rows import COLUMNS
from syvla.convert.statistics import Stats
from syvla.errors import RecordingError
from syvla.messages import ARMS
from syvla.standard_messages import MAX_SIDE

VERSION = "v3.0"
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EXTRA = "meta/syvla.json"  # what of an episode the format has no place for; other readers do not look at it
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"
CHUNK_FILES = 1000
IMAGE_PREFIX = "observation.images."
STATE, VELOCITY, EFFORT, ACTION = "observation.state", "observation.velocity", "observation.effort", "action"
VECTORS = (STATE, VELOCITY, EFFORT, ACTION)
INTERVENTION = "intervention"  # as LeRobot's own rollouts with corrections have it
INTERVENTIONS = (INTERVENTION, "complementary_info.is_intervention")  # the latter in older ones
DONE, SUCCESS = "next.done", "next.success"
_NAMES = [f"{column}.pos" for column in COLUMNS]


class Info(msgspec.Struct):
    """``meta/info.json``; what else it says is not needed here."""

    codebase_version: str
    fps: int
    features: dict[str, "Feature"]
    total_episodes: int
    total_frames: int
    data_path: str = DATA_PATH
    video_path: str | None = VIDEO_PATH


class Feature(msgspec.Struct):
    """One column, or one video. ``names`` are those of its values or of its axes, as a list or in a map of lists."""

    dtype: str
    shape: tuple[int, ...]
    names: msgspec.Raw = msgspec.Raw(b"null")

    def told_names(self) -> list[str]:
        """The names; none where they are told in no way that is known."""
        try:
            found = msgspec.json.decode(self.names, type=list[str] | dict[str, list[str]] | None)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []
        return [*itertools.chain.from_iterable(found.values())] if isinstance(found, dict) else found or []


class Extra(msgspec.Struct):
    """``meta/syvla.json``: the name, outcome and run of each episode; each run is kept once, by a name."""

    episodes: list[tuple[str, str, str]]
    runs: dict[str, str]


def file_indices(number: int) -> tuple[int, int]:
    """Chunk and file of the file with this number."""
    return divmod(number, CHUNK_FILES)


def features(cameras: Mapping[str, tuple[int, int]], fps: int, success: bool) -> dict[str, dict[str, Any]]:
    """The features of what we write; ``cameras`` have the height and width of their images.

    ``success`` says whether it is told of each episode.
    """
    vector = {"dtype": "float32", "shape": [len(COLUMNS)], "names": _NAMES}
    flag = {"dtype": "bool", "shape": [1], "names": None}
    number = {"dtype": "int64", "shape": [1], "names": None}
    return {
        ACTION: vector,
        STATE: vector,
        VELOCITY: {**vector, "names": [f"{column}.vel" for column in COLUMNS]},
        EFFORT: {**vector, "names": [f"{column}.effort" for column in COLUMNS]},
        **{IMAGE_PREFIX + camera: _video(height, width, fps) for camera, (height, width) in cameras.items()},
        INTERVENTION: flag,
        DONE: flag,
        **({SUCCESS: flag} if success else {}),
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "frame_index": number,
        "episode_index": number,
        "index": number,
        "task_index": number,
    }


def _video(height: int, width: int, fps: int) -> dict[str, Any]:
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.fps": fps,
            "video.channels": 3,
            "is_depth_map": False,
            "has_audio": False,
        },
    }


def flat_stats(stats: Mapping[str, Stats]) -> dict[str, object]:
    """An episode's statistics as columns of ``meta/episodes``."""
    return {f"stats/{feature}/{key}": value for feature, found in stats.items() for key, value in found.items()}


def checked_info(text: bytes, where: str) -> Info:
    """The info in ``text``; RecordingError unless all in it is as the format has it and as we can read it."""
    try:
        info = msgspec.json.decode(text, type=Info)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"{where}: not a LeRobot dataset's: {error}") from error
    if info.codebase_version != VERSION:
        raise RecordingError(f"{where}: its version is {info.codebase_version[:32]!r}; {VERSION!r} can be read")
    for field, path, only in (("data_path", info.data_path, DATA_PATH), ("video_path", info.video_path, VIDEO_PATH)):
        if path not in (only, None):
            raise RecordingError(f"{where}: {field} must be {only!r}")
    if not 1 <= info.fps <= 240:
        raise RecordingError(f"{where}: fps must be 1..240, not {info.fps}")
    if not 1 <= info.total_episodes <= 1_000_000 or not 1 <= info.total_frames <= 10**10:
        raise RecordingError(f"{where}: it has {info.total_episodes} episodes and {info.total_frames} frames")
    for name in (STATE, ACTION):
        feature = info.features.get(name)
        if feature is None or feature.shape != (len(COLUMNS),) or feature.dtype not in ("float32", "float64"):
            raise RecordingError(
                f"{where}: {name} must be {len(COLUMNS)} floats: left and right arm, 6 joints + gripper"
            )
    return info


def image_size(feature: Feature, where: str) -> tuple[int, int]:
    """Height and width of a camera's images, whose channels are the last axis, or the first where the names say so."""
    shape = feature.shape
    first = [name.rstrip("s") for name in feature.told_names()] == ["channel", "height", "width"]
    sides = shape[1:] if first else shape[:2]
    channels = shape[:1] if first else shape[2:]
    if channels != (3,) or not all(1 <= side <= most for side, most in zip(sides, MAX_SIDE, strict=True)):
        raise RecordingError(f"{where} must be up to {MAX_SIDE[1]}x{MAX_SIDE[0]} RGB, not {shape}")
    return sides[0], sides[1]


def column_order(feature: Feature, where: str) -> list[int]:
    """Which of its values is which of COLUMNS, by names that tell left from right; as they stand if none does.

    Raises:
        RecordingError: Some names tell it and others do not, or there are not seven of each arm.
    """
    names = [name.lower() for name in feature.told_names()]
    sides = [[side for side in ARMS if side in name] for name in names]
    as_they_stand = list(range(len(COLUMNS)))
    if not any(sides):
        return as_they_stand
    grippers = ["gripper" in name for name in names]
    each = [[i for i, found in enumerate(sides) if found == [side]] for side in ARMS]
    if any(len(arm) != len(COLUMNS) // 2 or sum(grippers[i] for i in arm) > 1 for arm in each):
        raise RecordingError(f"{where} must have names of seven values of each arm, left and right")
    return [i for arm in each for i in sorted(arm, key=lambda i: (grippers[i], _joint(names[i])))]


def _joint(name: str) -> int:
    """The number of a joint, where its name has one."""
    found = re.search(r"joint_?(\d{1,3})", name)
    return int(found[1]) if found else 0
