"""ROS 2 bags of others, written by ``rosbags``, to our recordings by topic profile."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tests.convert.made import INSTRUCTION, SIZE, assert_same_rows, picture, run, shown

from syvla import messages as m
from syvla.convert.bag import BagEpisode
from syvla.convert.bag_command import Commands
from syvla.convert.found import Reading
from syvla.convert.ours import McapEpisode
from syvla.convert.rows import Grid
from syvla.errors import ConfigError, RecordingError
from syvla.profiles import PROFILES
from syvla.recording.images import compress
from syvla.recording.mcap_read import Recording
from syvla.standard_messages import Joints

STORE = get_typestore(Stores.ROS2_HUMBLE)
BEGIN_NS = 1_700_000_000_000_000_000
GRID = Grid(instruction=INSTRUCTION)


def write_bag(
    folder: Path,
    storage: StoragePlugin = StoragePlugin.SQLITE3,
    profile: str = "piper_ros2",
    duration_s: float = 1.0,
    jpeg: bool = False,
    stamped: bool = True,
    said: str = "somewhere",
) -> Path:
    """A bag as a third party records it: 50 Hz joints, 30 Hz images, one topic that nobody knows."""
    names = PROFILES[profile]
    types = STORE.types

    def header(at_ns: int) -> Any:
        stamp = types["builtin_interfaces/msg/Time"](at_ns // 10**9 if stamped else 0, at_ns % 10**9 if stamped else 0)
        return types["std_msgs/msg/Header"](stamp, said)

    with Writer(folder, version=9, storage_plugin=storage) as bag:
        joints = {
            topic: bag.add_connection(topic, "sensor_msgs/msg/JointState", typestore=STORE)
            for topic in (*names.state.values(), *names.command.values())
        }
        kind = "sensor_msgs/msg/CompressedImage" if jpeg else "sensor_msgs/msg/Image"
        images = {
            topic: bag.add_connection(topic + ("/compressed" if jpeg else ""), kind, typestore=STORE)
            for topic in names.image.values()
        }
        other = bag.add_connection("/chatter", "std_msgs/msg/String", typestore=STORE)
        for tick in range(int(duration_s * 150)):
            at_ns = BEGIN_NS + tick * 10**9 // 150
            if tick % 3 == 0:
                for topic, connection in joints.items():
                    command = topic in names.command.values()
                    position = np.array([*np.arange(6) * 0.1 + command + tick / 1000, 0.05])
                    empty = np.zeros(0) if command else np.full(7, 0.25)
                    message = types["sensor_msgs/msg/JointState"](
                        header(at_ns), list(names.joints), position, empty, empty
                    )
                    bag.write(connection, at_ns, STORE.serialize_cdr(message, message.__msgtype__))
                words = types["std_msgs/msg/String"]("hello")
                bag.write(other, at_ns, STORE.serialize_cdr(words, words.__msgtype__))
            if tick % 5 == 0:
                rgb = picture(tick)
                for connection in images.values():
                    if jpeg:
                        frame = m.CameraFrame(camera="cam_high", frame_id=0, exposure_ns=0, rgb=rgb)
                        data = np.array(compress(frame, 90).jpeg)
                        image = types[kind](header(at_ns), "rgb8; jpeg compressed bgr8", data)
                    else:
                        bgr = np.ascontiguousarray(rgb[..., ::-1]).reshape(-1)
                        image = types[kind](header(at_ns), SIZE[0], SIZE[1], "bgr8", 0, SIZE[1] * 3, bgr)
                    bag.write(connection, at_ns, STORE.serialize_cdr(image, kind))
    return folder


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("jpeg", [False, True])
def test_a_bag_becomes_a_recording(tmp_path: Path, storage: StoragePlugin, jpeg: bool) -> None:
    bag = write_bag(tmp_path / "bag", storage, jpeg=jpeg)
    status, said = run([bag], tmp_path / "out", "mcap", grid=GRID, jpeg=0)
    assert status == 0, said
    found = list(Recording(tmp_path / "out/bag.mcap"))
    states = [r.message for r in found if isinstance(r.message, m.ArmState)]
    assert len(states) == 100
    np.testing.assert_allclose(states[0].position_rad, np.arange(6) * 0.1)
    assert states[0].gripper_width_m == pytest.approx(0.05)
    np.testing.assert_array_equal(states[0].velocity_rad_s, np.full(6, 0.25))
    commands = [r.message for r in found if isinstance(r.message, m.JointCommand)]
    assert {c.provenance.source for c in commands} == {m.Source.UNKNOWN}
    assert len(commands) == len({c.commanded_ns for c in commands}) == 50  # one for both arms at each tick
    np.testing.assert_allclose(commands[-1].position_rad[:2], [1.147, 1.247])
    frames = [r.message for r in found if isinstance(r.message, m.CameraFrame | m.CompressedFrame)]
    assert len(frames) == 90
    assert np.abs(shown(frames[0]).astype(int) - picture(0)).mean() < (3 if jpeg else 1e-9)
    assert [f.exposure_ns for f in frames[:6:3]] == [1_000_000_000, 1_033_333_333]
    assert assert_same_rows(BagEpisode(bag, "piper_ros2"), McapEpisode(tmp_path / "out/bag.mcap"), GRID, 0.0) == 30


def test_a_file_alone_and_other_names_and_units(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP, "cobot_magic_ros1_names")
    (file,) = bag.glob("*.mcap")
    row = next(BagEpisode(file, "cobot_magic_ros1_names", 0.5).rows(GRID))
    assert row.state[6] == pytest.approx(0.025)
    assert row.action[6] == pytest.approx(0.025)
    status, said = run([file], tmp_path / "out", "lerobot", Reading(profile="piper_ros2"), GRID)
    assert (status, len(said.splitlines())) == (2, 1)
    assert "it has no command" in said or "nothing in the first" in said or "it has no arm/left" in said
    with pytest.raises(ConfigError, match="no topic profile 'mine'; there are syvla, piper_ros2"):
        BagEpisode(bag, "mine")


def test_our_own_nodes_say_who_commanded_and_what_was_asked_for(tmp_path: Path) -> None:
    bag = write_bag(
        tmp_path / "bag", profile="syvla", said="source=teleop&override_id=3&chunk_id=5&observation_ns=99&command=7"
    )
    with pytest.raises(RecordingError, match="it does not say what was asked for"):
        list(BagEpisode(bag, "syvla").rows(Grid()))
    rows = list(BagEpisode(bag, "syvla").rows(GRID))
    assert all(row.intervention for row in rows)
    command = next(each.message for each in BagEpisode(bag, "syvla").messages(GRID) if each.topic == "command")
    assert isinstance(command, m.JointCommand)
    assert command.provenance == m.Provenance(source=m.Source.TELEOP, override_id=3)
    pretended = write_bag(tmp_path / "pretended", said="source=teleop&override_id=3")
    assert not any(row.intervention for row in BagEpisode(pretended, "piper_ros2").rows(GRID))


def test_a_command_is_of_both_arms_at_once() -> None:
    """Right after left with the same stamp is one command; an arm that is told alone leaves the other where it was."""

    def joints(value: float) -> Joints:
        return Joints(np.full(6, value), np.zeros(6), np.zeros(6), value / 100)

    commands, who, made = Commands(), m.Provenance(source=m.Source.UNKNOWN), []
    told = [("left", 10, 1.0), ("right", 10, 2.0), ("left", 20, 3.0), ("left", 30, 4.0), ("right", 30, 5.0)]
    told += [("right", 40, 6.0), ("left", 39, 7.0), ("right", 50, 8.0)]  # a clock that is a little behind
    for arm, at_ns, value in told:
        made += [each.message for each in commands.add(arm, at_ns, joints(value), who)]
    made += [each.message for each in commands.rest()]
    found = [(c.commanded_ns, c.position_rad[0], c.position_rad[6]) for c in made if isinstance(c, m.JointCommand)]
    assert found == [(10, 1.0, 2.0), (20, 3.0, 2.0), (30, 4.0, 5.0), (40, 7.0, 6.0), (50, 7.0, 8.0)]


def test_without_stamps_the_time_of_receipt_counts(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", stamped=False)
    rows = list(BagEpisode(bag, "piper_ros2").rows(GRID))
    assert len(rows) == 30
    assert rows[3].time_ns - rows[0].time_ns == 100_000_000


def test_a_truncated_bag_is_refused(tmp_path: Path) -> None:
    for storage in StoragePlugin:
        bag = write_bag(tmp_path / storage.name, storage)
        (file,) = (path for path in bag.iterdir() if path.suffix != ".yaml")
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(RecordingError) as refusal:
            list(BagEpisode(bag, "piper_ros2").rows(GRID))
        assert len(str(refusal.value).splitlines()) == 1
        assert str(file) in str(refusal.value)


@pytest.mark.parametrize(
    "program",
    [
        "ALTER TABLE messages RENAME TO real; "
        "CREATE VIEW messages AS SELECT id, topic_id, timestamp, zeroblob(1e9) AS data FROM real",
        "ALTER TABLE messages ADD COLUMN more GENERATED ALWAYS AS (zeroblob(1000000000))",
        "CREATE TRIGGER t AFTER INSERT ON messages BEGIN DELETE FROM topics; END",
    ],
)
def test_a_base_with_programs_in_it_is_refused(tmp_path: Path, program: str) -> None:
    bag = write_bag(tmp_path / "bag")
    (file,) = bag.glob("*.db3")
    with sqlite3.connect(file) as base:
        base.executescript(program)
    with pytest.raises(RecordingError, match=r"no plain table of a bag|computed columns"):
        list(BagEpisode(bag, "piper_ros2").rows(GRID))


def test_a_topic_of_another_type_is_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=9) as bag:
        words = STORE.types["std_msgs/msg/String"]("hello")
        connection = bag.add_connection("/joint_states_l", words.__msgtype__, typestore=STORE)
        bag.write(connection, 1, STORE.serialize_cdr(words, words.__msgtype__))
    with pytest.raises(
        RecordingError, match="/joint_states_l holds std_msgs/msg/String, not sensor_msgs/msg/JointState"
    ):
        list(BagEpisode(tmp_path / "bag", "piper_ros2").rows(GRID))
