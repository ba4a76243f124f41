"""The recorder stage: episodes, batches, and what happens when the disk is full."""

import datetime
import logging
import resource
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from syvla import messages as m
from syvla.config import ArmConfig, RecorderConfig, RigConfig, RunConfig
from syvla.errors import RecordingError
from syvla.message import Message
from syvla.protocols import Header, Inbox, OnNew, Received
from syvla.recording.images import decompress
from syvla.recording.mcap_read import Recorded, Recording, read
from syvla.stages import recorder
from syvla.stages.recorder import RecorderStage
from syvla.topics import TOPICS
from syvla.transport.codec import encode_body

MS = 1_000_000


def run_config(recorder: RecorderConfig | None = None) -> RunConfig:
    """The smallest one."""
    left = right = ArmConfig()
    return RunConfig(
        rig=RigConfig(name="t", kind="twin", left=left, right=right, recorder=recorder or RecorderConfig())
    )


class Feed:
    """Hands messages to a recorder, 20 ms between two steps, and keeps what it says."""

    def __init__(self, stage: RecorderStage) -> None:
        self.stage = stage
        self.now_ns = 0
        self.said: list[m.RecordingState] = []
        self._count = 0

    def send(self, *messages: tuple[str, Message]) -> None:
        """One step with these messages."""
        fresh = [self._received(topic, message) for topic, message in messages]
        for emit in self.stage.step(self.now_ns, Inbox({}, fresh)):
            assert emit.topic == "recording"
            assert isinstance(emit.message, m.RecordingState)
            self.said.append(emit.message)
        self.now_ns += 20 * MS

    def control(self, action: str, name: str) -> None:
        """An EpisodeControl."""
        assert action in ("start", "success", "failure", "discard")
        self.send(("episode", m.EpisodeControl(action=action, name=name, issued_ns=self.now_ns)))  # type: ignore[arg-type]

    def _received(self, topic: str, message: Message) -> Received:
        self._count += 1
        header = Header(topic, 0, self._count, self.now_ns, 0)
        return Received(header, message, self.now_ns, lambda: encode_body(message))


def task(i: int) -> tuple[str, Message]:
    """A task."""
    return "task", m.Task(task_id=i, instruction=f"task {i}", issued_ns=0)


def command(i: int) -> tuple[str, Message]:
    """A joint command."""
    message = m.JointCommand(
        command_id=i, commanded_ns=i, position_rad=np.zeros(12), gripper_width_m=np.zeros(2),
        provenance=m.Provenance(source=m.Source.HOLD), intent_age_s=-1.0, limited_joints=0,
    )  # fmt: skip
    return "command", message


def image(i: int) -> tuple[str, Message]:
    """Noise, so that it does not compress away."""
    rgb = np.random.default_rng(i).integers(0, 255, (120, 160, 3), np.uint8)
    return "camera/cam_high", m.CameraFrame(camera="cam_high", frame_id=i, exposure_ns=i, rgb=rgb)


def command_ids(recorded: Sequence[Recorded]) -> list[int]:
    return [r.message.command_id for r in recorded if isinstance(r.message, m.JointCommand)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_reads_every_recorded_topic_without_loss() -> None:
    assert set(RecorderStage.reads) == {row.name for row in TOPICS.values() if row.recorded}
    assert RecorderStage.lossless
    assert RecorderStage.trigger == OnNew(RecorderStage.reads, 20 * MS)
    assert RecorderStage.writes == ("recording",)


def test_an_episode_is_what_comes_between_start_and_success(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config(), {"operator": "test"}))
    feed.send(task(1), command(0))
    feed.send(task(2))
    feed.control("start", "first")
    assert names(tmp_path) == ["first.mcap.partial"]
    feed.send(command(1), command(2))
    feed.control("success", "first")
    feed.send(command(3))
    assert names(tmp_path) == ["first.mcap"]
    recording = Recording(tmp_path / "first.mcap")
    recorded = list(recording)
    assert [r.topic for r in recorded] == ["task", "episode", "command", "command", "episode"]
    assert isinstance(recorded[0].message, m.Task)
    assert recorded[0].message.task_id == 2, "the task in force is written at the head"
    assert recorded[0].log_time_ns == recorded[1].log_time_ns
    assert recorded[0].header.sent_ns < recorded[1].header.sent_ns
    assert command_ids(recorded) == [1, 2]
    assert recording.outcome["outcome"] == "success"
    assert recording.run["episode"] == "first"
    assert recording.run["operator"] == "test"
    assert recording.run["rig"] == "t"
    assert '"name": "t"' in recording.attachments["run.json"]


def test_messages_of_one_batch_around_a_control_go_where_they_belong(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    start = m.EpisodeControl(action="start", name="a", issued_ns=0)
    end = m.EpisodeControl(action="failure", name="a", issued_ns=0)
    feed.send(command(1), ("episode", start), command(2), ("episode", end), command(3))
    recording = Recording(tmp_path / "a.mcap")
    assert command_ids(list(recording)) == [2]
    assert recording.outcome["outcome"] == "failure"


def test_a_discarded_episode_is_marked_and_kept(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.control("start", "a")
    feed.send(command(1))
    feed.control("discard", "a")
    assert names(tmp_path) == ["a.discarded.mcap"]
    assert Recording(tmp_path / "a.discarded.mcap").outcome["outcome"] == "discarded"


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    for end in ("success", "discard", "failure", "success"):
        feed.control("start", "a")
        feed.control(end, "a")
    assert names(tmp_path) == ["a-2.discarded.mcap", "a-3.mcap", "a-4.mcap", "a.mcap"]


def test_the_end_of_another_episode_is_ignored(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.control("success", "never started")
    feed.control("start", "a")
    feed.control("discard", "b")
    assert names(tmp_path) == ["a.mcap.partial"]


def test_an_episode_that_nobody_named_is_named_by_the_time_and_ended_without_a_name(tmp_path: Path) -> None:
    """Whoever presses a button, or calls a service, does not know what the episode is called."""
    noon_ns = round(datetime.datetime(2026, 3, 1, 12, 0, 0).astimezone().timestamp()) * 1_000_000_000
    stage = RecorderStage(tmp_path, msgspec.structs.replace(run_config(), wall_offset_ns=noon_ns))
    feed = Feed(stage)
    assert stage.words == "nothing is being recorded"
    feed.send(("teleop/episode", m.EpisodeControl(action="start", name="", issued_ns=0)))
    assert stage.episode == "20260301-120000"
    assert stage.words == f"recording {tmp_path / '20260301-120000.mcap.partial'}"
    feed.send(command(1))
    turns = stage.turns
    feed.send(("episode", m.EpisodeControl(action="failure", name="", issued_ns=0)))
    assert stage.turns > turns
    assert names(tmp_path) == ["20260301-120000.mcap"]
    assert Recording(tmp_path / "20260301-120000.mcap").outcome["outcome"] == "failure"
    feed.send(("episode", m.EpisodeControl(action="success", name="", issued_ns=0)))
    assert "the last one is failure" in stage.words


def test_a_start_without_a_name_does_not_end_an_episode_that_has_one(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.control("start", "named")
    feed.send(("teleop/episode", m.EpisodeControl(action="start", name="", issued_ns=0)))
    feed.control("success", "named")
    assert names(tmp_path) == ["named.mcap"]
    assert Recording(tmp_path / "named.mcap").outcome["outcome"] == "success"


def test_what_saves_a_fault_is_no_episode_that_a_person_ends(tmp_path: Path) -> None:
    """A button pressed after a fault once called it a success, and cut off what followed."""
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.send(safety(m.Mode.ENABLED), safety(m.Mode.HOLD, "clamped"))
    assert feed.stage.episode == ""
    for action in ("success", "discard"):
        feed.send(("teleop/episode", m.EpisodeControl(action=action, name="", issued_ns=0)))
    assert names(tmp_path) == ["fault-clamped.mcap.partial"]
    for i in range(300):
        feed.send(command(i))
    assert Recording(tmp_path / "fault-clamped.mcap").outcome["outcome"] == "fault"


def test_a_new_start_and_a_stop_close_what_is_open_as_interrupted(tmp_path: Path) -> None:
    stage = RecorderStage(tmp_path, run_config())
    feed = Feed(stage)
    feed.control("start", "a")
    feed.control("start", "b")
    stage.request_stop()
    assert not stage.stopped
    feed.send(command(1))
    assert stage.stopped
    feed.send(command(2))
    assert names(tmp_path) == ["a.mcap", "b.mcap"]
    for name in names(tmp_path):
        assert Recording(tmp_path / name).outcome["outcome"] == "interrupted"
    assert command_ids(list(read(tmp_path / "b.mcap"))) == [1]


def test_close_closes_the_episode(tmp_path: Path) -> None:
    stage = RecorderStage(tmp_path, run_config())
    feed = Feed(stage)
    feed.control("start", "a")
    stage.close()
    assert Recording(tmp_path / "a.mcap").outcome["outcome"] == "interrupted"


@pytest.mark.parametrize("name", ["../escape", "/tmp/absolute", ".hidden", "a/b"])
def test_an_unsafe_name_records_nothing_and_is_said(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    feed = Feed(RecorderStage(folder, run_config()))
    feed.control("start", name)
    feed.send(command(1))
    assert names(tmp_path) == ["recordings"]
    assert names(folder) == []
    assert "episode name" in feed.said[-1].error


def test_images_are_jpeg_or_raw_as_configured(tmp_path: Path) -> None:
    for image_format in ("jpeg", "raw"):
        recorder = RecorderConfig(image_format="jpeg" if image_format == "jpeg" else "raw", jpeg_quality=95)
        feed = Feed(RecorderStage(tmp_path, run_config(recorder)))
        feed.control("start", image_format)
        feed.send(image(3))
        feed.control("success", image_format)
        (recorded,) = read(tmp_path / f"{image_format}.mcap", ["camera/cam_high"])
        frame = recorded.message
        if image_format == "jpeg":
            assert isinstance(frame, m.CompressedFrame)
            frame = decompress(frame)
        assert isinstance(frame, m.CameraFrame)
        original = image(3)[1]
        assert isinstance(original, m.CameraFrame)
        error = np.abs(frame.rgb.astype(int) - original.rgb.astype(int)).mean()
        assert (0 < error < 60) if image_format == "jpeg" else error == 0  # noise is the worst case for a JPEG
    assert Recording(tmp_path / "jpeg.mcap").run["images"] == "jpeg 95"


def test_it_says_what_it_does_when_that_changes_and_once_a_second(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.control("start", "a")
    for i in range(60):
        feed.send(command(i))
    feed.control("success", "a")
    assert [state.episode for state in feed.said] == ["a", "a", ""]
    assert feed.said[1].messages > 40
    assert feed.said[1].written_bytes > 1000
    assert feed.said[-1].path == str(tmp_path / "a.mcap")
    assert feed.said[-1].outcome == "success"
    assert not any(state.error for state in feed.said)


def test_a_full_disk_closes_and_marks_the_episode_and_the_stage_lives_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config(RecorderConfig(image_format="raw"))))
    feed.control("start", "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with caplog.at_level(logging.ERROR):
            for i in range(40):
                feed.send(image(i), command(i))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["a.incomplete.mcap"]
    kept = command_ids(list(read(tmp_path / "a.incomplete.mcap")))
    assert kept == list(range(len(kept)))
    assert 5 < len(kept) < 40
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1, "said once"
    assert "File too large" in feed.said[-1].error
    assert feed.said[-1].outcome == "write_error"
    feed.control("start", "b")
    feed.send(command(7))
    feed.control("success", "b")
    assert command_ids(list(read(tmp_path / "b.mcap"))) == [7]
    assert feed.said[-1].error == ""


def test_a_disk_that_is_full_at_the_start_is_said(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        feed.control("start", "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    feed.send(command(1))
    assert "File too large" in feed.said[-1].error
    assert names(tmp_path) == []


def test_the_same_messages_give_the_same_file(tmp_path: Path) -> None:
    files = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        feed = Feed(RecorderStage(folder, run_config()))
        feed.control("start", "a")
        for i in range(50):
            feed.send(image(i), command(i), task(i))
        feed.control("success", "a")
        files.append((folder / "a.mcap").read_bytes())
    assert files[0] == files[1]


def test_a_missing_folder_is_refused_at_construction(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="not a folder"):
        RecorderStage(tmp_path / "missing", run_config())


# ---------------------------------------------------------------- between episodes


def safety(mode: m.Mode, *codes: str) -> tuple[str, Message]:
    """What the gate says."""
    reasons = tuple(m.Reason(code=code, detail="", next_step="") for code in codes)
    message = m.SafetyState(
        stamp_ns=0, mode=mode, source=m.Source.HOLD, reasons=reasons, limited_joints=0,
        clamped_count=0, refused_count=0, arm_distance_m=0.2,
    )  # fmt: skip
    return "safety", message


def test_a_fault_between_episodes_saves_the_minute_before_and_the_seconds_after(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.send(task(7), safety(m.Mode.ENABLED))
    for i in range(3500):  # 70 s
        feed.send(command(i))
    feed.send(safety(m.Mode.HOLD, "intent_stale", "intent_old"))
    for i in range(3500, 3500 + 400):  # 8 s
        feed.send(command(i))
    assert names(tmp_path) == ["fault-intent_stale.mcap"]
    recording = Recording(tmp_path / "fault-intent_stale.mcap")
    assert recording.outcome["outcome"] == "fault"
    recorded = list(recording)
    assert isinstance(recorded[0].message, m.Task), "what was in force is said at the head, however old"
    span_ns = recorded[-1].log_time_ns - recorded[0].log_time_ns
    assert span_ns == pytest.approx(65e9, abs=0.1e9)
    ids = command_ids(recorded)
    assert ids == list(range(ids[0], ids[-1] + 1)), "nothing is missing where memory and file meet"
    assert any(state.error == "" and state.outcome == "fault" for state in feed.said)


@pytest.mark.parametrize("cause", ["operator_hold", "operator_soft_stop", "teleop_hold", "stopping", "chunk_missing"])
def test_what_a_person_wished_is_no_fault(tmp_path: Path, cause: str) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.send(safety(m.Mode.ENABLED), command(1), safety(m.Mode.HOLD, cause))
    assert names(tmp_path) == []


def test_a_hold_that_was_there_and_a_fault_in_an_episode_save_nothing_more(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.send(safety(m.Mode.HOLD, "intent_stale"), command(1))
    feed.control("start", "a")
    feed.send(safety(m.Mode.ENABLED), command(2), safety(m.Mode.FAULT, "driver_error"), command(3))
    feed.control("failure", "a")
    assert names(tmp_path) == ["a.mcap"]
    assert command_ids(list(Recording(tmp_path / "a.mcap"))) == [2, 3]


def test_an_episode_that_begins_meanwhile_ends_the_recording_of_the_fault(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    feed.send(safety(m.Mode.OVERRIDE), command(1), safety(m.Mode.HOLD, "teleop_lost"), command(2))
    feed.control("start", "a")
    feed.send(command(3))
    feed.control("success", "a")
    assert names(tmp_path) == ["a.mcap", "fault-teleop_lost.mcap"]
    assert command_ids(list(Recording(tmp_path / "fault-teleop_lost.mcap"))) == [1, 2]
    assert command_ids(list(Recording(tmp_path / "a.mcap"))) == [3]
    assert Recording(tmp_path / "fault-teleop_lost.mcap").outcome["outcome"] == "fault"


def test_a_second_fault_has_a_name_of_its_own(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config()))
    for _ in range(2):
        feed.send(safety(m.Mode.ENABLED), safety(m.Mode.HOLD, "clamped"))
        for i in range(300):
            feed.send(command(i))
    assert names(tmp_path) == ["fault-clamped-2.mcap", "fault-clamped.mcap"]


def test_a_robot_that_trips_all_day_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "MOST_FAULTS", 2)
    feed = Feed(RecorderStage(tmp_path, run_config()))
    for _ in range(3):
        feed.send(safety(m.Mode.ENABLED), safety(m.Mode.HOLD, "clamped"))
        for i in range(300):
            feed.send(command(i))
        (tmp_path / "fault-clamped.rosbag2").mkdir(exist_ok=True)  # which is no other fault
    assert names(tmp_path) == ["fault-clamped-2.mcap", "fault-clamped.mcap", "fault-clamped.rosbag2"]
    assert "2 faults are saved already" in caplog.text


def test_what_is_kept_is_bounded_in_memory_and_written_little_by_little(tmp_path: Path) -> None:
    config = RecorderConfig(image_format="raw", ring_bytes=10_000_000)
    feed = Feed(RecorderStage(tmp_path, run_config(config)))
    feed.send(safety(m.Mode.ENABLED))
    for i in range(400):  # 23 MB
        feed.send(image(i))
    assert 9_000_000 < feed.stage._kept_bytes <= 10_000_000
    feed.send(safety(m.Mode.ENABLED))  # was pushed out long ago
    feed.send(safety(m.Mode.HOLD, "clamped"))
    left = [feed.stage._kept_bytes]
    while left[-1]:
        feed.send(image(len(left)))
        left.append(feed.stage._kept_bytes)
    assert len(left) > 4, "a disk that has to take it all at once would hold up those who send"
    assert max(np.diff(left) * -1) < 2.2 * 2**20


def test_nothing_is_kept_where_the_rig_says_so(tmp_path: Path) -> None:
    feed = Feed(RecorderStage(tmp_path, run_config(RecorderConfig(ring_s=0.0))))
    feed.send(safety(m.Mode.ENABLED), command(1), safety(m.Mode.HOLD, "clamped"), command(2))
    assert names(tmp_path) == []
    assert feed.stage._kept_bytes == 0
    feed.control("start", "a")
    feed.send(command(3))
    feed.control("success", "a")
    assert command_ids(list(Recording(tmp_path / "a.mcap"))) == [3]


@pytest.mark.parametrize("bad", [{"ring_s": -1.0}, {"ring_s": float("nan")}, {"ring_s": 601.0}, {"ring_bytes": -1}])
def test_a_ring_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ring_"):
        RecorderConfig(**bad)  # type: ignore[arg-type]


def repaired(folder: Path) -> None:
    """Another recorder has begun, and repaired what it found."""
    feed = Feed(RecorderStage(folder, run_config()))
    feed.send(command(0))
    assert feed.stage._repair is not None
    feed.stage._repair.join()


def test_what_a_dead_recorder_left_is_repaired_by_the_next_one_and_what_a_living_one_writes_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = Feed(RecorderStage(tmp_path, run_config()))
    dead.control("start", "dead")
    dead.send(command(1), command(2))
    dead.stage._log._file.close()  # type: ignore[union-attr]  # as the kernel does it
    living = Feed(RecorderStage(tmp_path, run_config()))
    living.control("start", "living")
    living.send(command(5))
    assert living.stage._repair is not None
    living.stage._repair.join()
    assert names(tmp_path) == ["dead.mcap.partial", "dead.repaired.mcap", "living.mcap.partial"]
    assert command_ids(list(Recording(tmp_path / "dead.repaired.mcap"))) == [1, 2]
    (tmp_path / "junk.mcap.partial").write_bytes(b"not a recording")
    with caplog.at_level(logging.WARNING):
        repaired(tmp_path)
    assert "junk.mcap.partial could not be repaired" in caplog.text
    assert names(tmp_path) == [
        "dead.mcap.partial", "dead.repaired.mcap", "junk.mcap.partial", "living.mcap.partial",
    ]  # fmt: skip
    (tmp_path / "dead.repaired.mcap").rename(tmp_path / "dead.repaired.mcap.partial")  # the repair was killed
    repaired(tmp_path)
    assert command_ids(list(Recording(tmp_path / "dead.repaired.mcap"))) == [1, 2]
    assert not (tmp_path / "dead.repaired.repaired.mcap").exists()
    living.control("success", "living")
    assert command_ids(list(Recording(tmp_path / "living.mcap"))) == [5]


def test_a_fault_that_could_not_be_saved_does_not_end_the_next_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full when the arms were held; the episode after that was closed in the step that began it."""
    feed = Feed(RecorderStage(tmp_path, run_config()))

    def full(*_: object) -> None:
        raise RecordingError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("syvla.stages.recorder.McapLog", full)
        feed.send(safety(m.Mode.ENABLED), safety(m.Mode.HOLD, "clamped"))
    for i in range(300):
        feed.send(command(i))
    feed.control("start", "a")
    feed.send(command(1000))
    assert names(tmp_path) == ["a.mcap.partial"]
    feed.control("success", "a")
    assert command_ids(list(Recording(tmp_path / "a.mcap"))) == [1000]
