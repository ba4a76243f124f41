"""What a source is, found by looking at it, and the episodes that are in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from syvla.convert.lerobot_layout import INFO
from syvla.convert.ours import McapEpisode
from syvla.convert.rows import Episode
from syvla.errors import ConfigError, RecordingError
from syvla.extras import check_convert
from syvla.messages import CAMERAS
from syvla.recording.mcap_log import PARTIAL
from syvla.recording.mcap_walk import open_regular

Format = Literal["mcap", "lerobot", "aloha", "ros2"]
BAG = "metadata.yaml"
ROS_BAG = ".rosbag2"  # of a ROS run, beside the recording that it was made from
ALOHA_ENDINGS = (".hdf5", ".h5")
_MCAP, _HDF5, _SQLITE = b"\x89MCAP0\r\n", b"\x89HDF\r\n\x1a\n", b"SQLite format 3\x00"
_KINDS = (
    "a recording of ours (.mcap), a LeRobotDataset v3 (a folder with meta/info.json), an ALOHA episode (.hdf5), a "
    "ROS 2 bag (a folder with metadata.yaml, or a .mcap file), or a folder of several of these"
)


class Reading(NamedTuple):
    """How sources are read, where they do not say it themselves."""

    format: Format | None = None  # None: found by looking
    cameras: Mapping[str, str] | None = None  # ours to theirs
    profile: str = "piper_ros2"
    gripper_unit_m: float | None = None  # None: that of the profile, metres elsewhere
    swapped: bool = False  # whether red and blue are the other way round in an ALOHA episode


def checked_cameras(given: Sequence[str]) -> dict[str, str] | None:
    """Ours to theirs, of texts as cam_high=top; ConfigError if one is anything else."""
    cameras: dict[str, str] = {}
    for text in given:
        ours, _, theirs = text.partition("=")
        if ours not in CAMERAS or not theirs:
            raise ConfigError(
                f"camera must be one of {', '.join(CAMERAS)}, '=' and what the source calls it, not {text!r}"
            )
        cameras[ours] = theirs
    return cameras or None


def episodes_of(path: Path, reading: Reading, to: str) -> Sequence[Episode]:
    """The episodes at ``path``; RecordingError if it is nothing that can be read."""
    kind = reading.format or format_of(path)
    if kind == "mcap":
        if to == "mcap":
            raise RecordingError(f"{path}: is a recording of ours already")
        return [McapEpisode(path)]
    if kind == "lerobot":
        check_convert("pyarrow", "av")
        from syvla.convert.lerobot_read import LeRobotDataset, LeRobotEpisode

        dataset = LeRobotDataset(path, reading.cameras, reading.gripper_unit_m or 1.0)
        return [LeRobotEpisode(dataset, place) for place in dataset.episodes]
    if kind == "aloha":
        check_convert("h5py")
        from syvla.convert.aloha_read import AlohaEpisode

        return [AlohaEpisode(path, reading.cameras, reading.gripper_unit_m or 1.0, reading.swapped)]
    check_convert("rosbags")
    from syvla.convert.bag import BagEpisode

    return [BagEpisode(path, reading.profile, reading.gripper_unit_m)]


def expanded(path: Path, reading: Reading) -> list[Path]:
    """The source at ``path``, or of a folder of several each of them; RecordingError if nothing known is there."""
    return [path] if reading.format == "lerobot" or format_of(path) is not None else _files_in(path)


def format_of(path: Path) -> Format | None:
    """The format of what is at ``path``; None of a folder of several; RecordingError if it is nothing known."""
    if path.is_dir():
        if (path / INFO).exists():
            return "lerobot"
        if (path / BAG).exists():
            return "ros2"
        return None
    with open_regular(path) as file:
        head = file.read(64)
    if head.startswith(_MCAP):  # the header record comes first: opcode, length, profile
        return "mcap" if b"syvla" in head[8:30] else "ros2"
    if head.startswith(_HDF5):
        return "aloha"
    if head.startswith(_SQLITE):
        return "ros2"
    raise RecordingError(f"{path}: is nothing that can be converted; there are {_KINDS}")


def _files_in(folder: Path) -> list[Path]:
    """What can be converted in a folder, once.

    What was discarded or never finished is left out, what was saved of the time before a fault, and the bag that a ROS
    run makes of each of its recordings.
    """
    files = [
        path
        for path in sorted(folder.iterdir())
        if (path.suffix in (".mcap", ".db3", *ALOHA_ENDINGS) or any((path / mark).exists() for mark in (INFO, BAG)))
        and not _left_out(path)
    ]
    if not files:
        raise RecordingError(f"{folder}: there is nothing in it that can be converted; there are {_KINDS}")
    return files


def _left_out(path: Path) -> bool:
    if path.suffix == PARTIAL:
        return True
    if path.suffix not in (".mcap", ROS_BAG):
        return False
    if path.stem.endswith((".discarded", ".incomplete")) or path.name.startswith("fault-"):
        return True
    return path.suffix == ROS_BAG and path.with_suffix(".mcap").is_file()
