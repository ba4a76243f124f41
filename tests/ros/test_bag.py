"""A recording as a rosbag2 bag, read back by the package ``rosbags``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.errors import ConfigError, RecordingError
from syvla.messages import ArmState, CompressedFrame, JointCommand
from syvla.recording.mcap_read import Recording
from syvla.runs import lockstep_run
from syvla.stages.recorder import RecorderStage
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
    assert not list(tmp_path.glob("*.partial"))


def test_a_bag_that_was_cut_short_is_begun_anew(recording: Path, tmp_path: Path) -> None:
    half = tmp_path / "one.rosbag2.partial"
    half.mkdir()
    (half / "leftover").touch()
    out, count = write_bag(recording, tmp_path / "one.rosbag2")
    assert count > 0
    assert not (out / "leftover").exists()
    assert not half.exists()
