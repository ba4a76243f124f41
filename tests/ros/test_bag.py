"""A recording as a rosbag2 bag, read back by the package ``rosbags``."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.errors import ConfigError, RecordingError
from syvla.messages import ArmState, CompressedFrame, JointCommand
from syvla.recording.mcap_log import McapLog
from syvla.recording.mcap_read import Recording
from syvla.runs import lockstep_run
from syvla.stages.recorder import RecorderStage
from syvla.transport.codec import encode_body
from syvla_ros import bag
from syvla_ros.bag import bag_folder, write_bag


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of an episode with one camera."""
    folder = tmp_path_factory.mktemp("recording")
    run = lockstep_run("twin", 0.3, 0.03, "reference")
    run_lockstep(run, Episode("snack_loading", "id", 0, "episode", 2.0), [RecorderStage(folder, run)], ("cam_high",))
    return folder / "episode.mcap"


def test_a_bag_holds_what_was_recorded_with_the_schemas_of_ros(recording: Path, tmp_path: Path) -> None:
    out, count = write_bag(recording, tmp_path / "one.rosbag2")
    recorded = list(Recording(recording).messages())
    with AnyReader([out], default_typestore=get_typestore(Stores.EMPTY)) as reader:  # by the bag's own definitions
        assert reader.message_count == count
        types = {connection.topic: connection.msgtype for connection in reader.connections}
        assert types["/syvla/left/joint_states"] == "sensor_msgs/msg/JointState"
        assert types["/syvla/cam_high/color/image_raw/compressed"] == "sensor_msgs/msg/CompressedImage"
        assert types["/syvla/chunk"] == "trajectory_msgs/msg/JointTrajectory"
        assert types["/diagnostics"] == "diagnostic_msgs/msg/DiagnosticArray"
        assert {"/syvla/thought", "/syvla/task", "/syvla/right/joint_command"} <= set(types)
        told: dict[str, list[Any]] = {topic: [] for topic in types}
        for connection, _, data in reader.messages():
            told[connection.topic].append(reader.deserialize(data, connection.msgtype))
    arm = [r.message for r in recorded if isinstance(r.message, ArmState) and r.message.arm == "left"]
    states = told["/syvla/left/joint_states"]
    assert len(states) == len(arm) > 300
    assert np.array([s.position[:6] for s in states]) == pytest.approx(np.array([a.position_rad for a in arm]))
    assert [s.header.stamp.sec * 10**9 + s.header.stamp.nanosec for s in states] == [a.measured_ns for a in arm]
    commands = [r.message for r in recorded if isinstance(r.message, JointCommand)]
    assert "source=policy" in told["/syvla/left/joint_command"][-1].header.frame_id
    assert len(told["/syvla/left/joint_command"]) == len(commands)
    frames = [r.message for r in recorded if isinstance(r.message, CompressedFrame)]
    images = told["/syvla/cam_high/color/image_raw/compressed"]
    assert [bytes(i.data) for i in images] == [f.jpeg.tobytes() for f in frames], "not encoded again"


def test_nothing_is_overwritten_and_what_is_no_recording_is_refused(recording: Path, tmp_path: Path) -> None:
    out, _ = write_bag(recording, tmp_path / "one.rosbag2")
    with pytest.raises(ConfigError, match="exists already"):
        write_bag(recording, out)
    foreign = tmp_path / "foreign.mcap"
    foreign.write_bytes(b"no recording")
    with pytest.raises(RecordingError, match="does not begin as an MCAP file"):
        write_bag(foreign)
    assert not bag_folder(foreign).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.mcap", "one.rosbag2"]


def test_what_fails_leaves_nothing_and_touches_nothing(recording: Path, tmp_path: Path) -> None:
    """An interrupted conversion keeps its work in NAME.partial, which a bag of that name once deleted."""
    others = tmp_path / "one.rosbag2.partial"
    others.mkdir()
    (others / "hours of work").touch()
    cut = tmp_path / "cut.mcap"
    whole = recording.read_bytes()
    inside = whole.index(b"\x28\xb5\x2f\xfd", len(whole) // 2) + 100  # of what zstd made of a chunk
    cut.write_bytes(whole[:inside] + bytes(500) + whole[inside + 500 :])
    with pytest.raises(RecordingError):
        write_bag(cut, tmp_path / "one.rosbag2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mcap", "one.rosbag2.partial"]
    write_bag(recording, tmp_path / "one.rosbag2")
    assert (others / "hours of work").exists()
    assert sorted(path.name for path in (tmp_path / "one.rosbag2").iterdir()) == ["metadata.yaml", "one.rosbag2.mcap"]


def test_two_writers_of_one_bag_do_not_disturb_each_other(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "one.rosbag2"
    whole = bag._write

    def beside(read: Recording, folder: Path) -> int:
        count = whole(read, folder)
        monkeypatch.setattr(bag, "_write", whole)
        assert write_bag(recording, out)[1] == count, "another one is there first"
        return count

    monkeypatch.setattr(bag, "_write", beside)
    with pytest.raises(ConfigError, match="not empty"):
        write_bag(recording, out)
    with AnyReader([out]) as reader:
        assert reader.message_count > 300


@pytest.mark.parametrize(
    ("changes", "said"), [({"wall_offset_ns": -(10**18)}, "its wall clock makes no sense"), ({}, "")]
)
def test_a_recording_that_lies_is_one_line_or_left_out(
    recording: Path, tmp_path: Path, changes: dict[str, int], said: str
) -> None:
    read = Recording(recording)
    run = {**msgspec.json.decode(read.attachments["run.json"]), **changes}
    log = McapLog(tmp_path / "odd.mcap", read.run, {"run.json": msgspec.json.encode(run).decode()})
    frame = next(r for r in read.messages({"camera/cam_high"}))
    assert isinstance(frame.message, CompressedFrame)
    evil = msgspec.structs.replace(frame.message, camera="cam_evil")
    log.write(frame.header, CompressedFrame, encode_body(evil), frame.log_time_ns)
    for raw in read.records({"arm/left"}):
        log.write_record(raw.topic, raw.kind, raw.data, raw.log_time_ns, raw.sent_ns, raw.sequence)
    log.close({"outcome": "success"})
    if said:
        with pytest.raises(RecordingError, match=said):
            write_bag(tmp_path / "odd.mcap")
    else:
        out, _ = write_bag(tmp_path / "odd.mcap")
        with AnyReader([out]) as reader:
            assert [connection.topic for connection in reader.connections] == ["/syvla/left/joint_states"]
