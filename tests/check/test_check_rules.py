"""Every rule: one fault is put into a good recording, and exactly that is found."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.check.episodes import (
    FRAME_NS,
    GOLDEN,
    LENGTH_NS,
    MS,
    Told,
    changed,
    configured,
    good,
    numbered,
    picture,
    write,
)

from syvla import messages as m
from syvla.check.episode import check_episode
from syvla.check.finding import EpisodeCheck, Finding, Severity
from syvla.protocols import Header
from syvla.recording.images import decompress
from syvla.recording.mcap_log import McapLog
from syvla.transport.codec import encode_body

ERROR, WARNING = Severity.ERROR, Severity.WARNING
MID_NS = LENGTH_NS // 2


def checked(folder: Path, told: Iterable[Told], configuration: str | None = None) -> EpisodeCheck:
    return check_episode(write(folder / "episode.mcap", told, configuration))


def only(result: EpisodeCheck, name: str, where: str, severity: Severity = ERROR) -> Finding:
    """The one finding there is."""
    assert [(f.name, f.where) for f in result.findings] == [(name, where)]
    finding = result.findings[0]
    assert finding.severity is severity
    assert finding.seen
    assert finding.fix
    return finding


def late(told: Told, from_ns: int = MID_NS) -> bool:
    return told.log_ns >= from_ns


@pytest.mark.parametrize("name", ["policy", "person", "slow_planner"])
def test_golden_episodes_are_without_fault(name: str) -> None:
    result = check_episode(GOLDEN / f"{name}.mcap")
    assert result.findings == []
    assert result.messages > 3000


def test_the_good_episode_is_without_fault(tmp_path: Path) -> None:
    result = checked(tmp_path, good())
    assert result.findings == []
    assert result.cameras == m.CAMERAS
    assert result.instruction.startswith("Put the yellow bar")


# ---------------------------------------------------------------- stamps


def test_lost_messages(tmp_path: Path) -> None:
    told = changed(lambda t: None if MID_NS <= t.log_ns < MID_NS + 100 * MS else t, "command")
    finding = only(checked(tmp_path, told), "messages.lost", "command")
    assert finding.count == 20
    assert finding.at_s == pytest.approx(1.6, abs=0.02)


@pytest.mark.parametrize(("silent_ms", "severity"), [(80, WARNING), (150, ERROR)])
def test_a_silent_device(tmp_path: Path, silent_ms: int, severity: Severity) -> None:
    told = changed(lambda t: None if MID_NS <= t.log_ns < MID_NS + silent_ms * MS else t, "arm/right")
    finding = only(checked(tmp_path, numbered(told)), "stamps.missing", "arm/right", severity)
    assert f"{silent_ms / 1e3 + 0.005:.3f} s" in finding.seen


def test_a_camera_that_loses_pictures(tmp_path: Path) -> None:
    told = changed(lambda t: None if MID_NS <= t.log_ns < MID_NS + 400 * MS else t, "camera/cam_high")
    only(checked(tmp_path, numbered(told)), "stamps.missing", "camera/cam_high", WARNING)


def test_a_device_that_dies(tmp_path: Path) -> None:
    told = changed(lambda t: None if late(t) else t, "arm/left")
    finding = only(checked(tmp_path, told), "stamps.end_early", "arm/left")
    assert finding.at_s == pytest.approx(1.5, abs=0.02)


def test_a_device_that_begins_late(tmp_path: Path) -> None:
    told = changed(lambda t: t if late(t) else None, "arm/left")
    only(checked(tmp_path, numbered(told)), "stamps.begin_late", "arm/left", WARNING)


def moved_stamp(by_ns: int, field: str, from_ns: int, to_ns: int, topic: str) -> list[Told]:
    def fault(told: Told) -> Told:
        hit = from_ns <= told.log_ns < to_ns
        return told.but(**{field: getattr(told.message, field) + by_ns}) if hit else told

    return changed(fault, topic)


@pytest.mark.parametrize("to_ns", [MID_NS + 5 * MS, LENGTH_NS])
def test_a_stamp_that_jumps_once_or_for_good(tmp_path: Path, to_ns: int) -> None:
    told = moved_stamp(700 * MS, "measured_ns", MID_NS, to_ns, "arm/left")
    finding = only(checked(tmp_path, told), "stamps.jumped", "arm/left")
    assert finding.count == 1
    assert "0.700 s" in finding.seen


@pytest.mark.parametrize("to_ns", [MID_NS + 5 * MS, LENGTH_NS])
def test_a_stamp_that_runs_backwards_once_or_for_good(tmp_path: Path, to_ns: int) -> None:
    told = moved_stamp(-700 * MS, "commanded_ns", MID_NS, to_ns, "command")
    finding = only(checked(tmp_path, told), "stamps.backwards", "command")
    assert finding.count == 1


def test_a_device_whose_message_is_late_has_not_jumped(tmp_path: Path) -> None:
    """A stage that hangs between reading its clock and sending: the stamp is right, the next one comes soon after."""

    def fault(told: Told) -> Told | None:
        if MID_NS <= told.log_ns < MID_NS + 150 * MS:
            return None
        if MID_NS - 5 * MS <= told.log_ns < MID_NS:
            at_ns = told.log_ns + 153 * MS
            return told._replace(header=told.header._replace(sent_ns=at_ns), log_ns=at_ns)
        return told

    told = sorted(numbered(changed(fault, "arm/left")), key=lambda each: each.log_ns)
    only(checked(tmp_path, told), "stamps.missing", "arm/left", ERROR)


def test_a_repeated_stamp(tmp_path: Path) -> None:
    told = moved_stamp(-5 * MS, "measured_ns", MID_NS, MID_NS + 5 * MS, "arm/right")
    assert only(checked(tmp_path, told), "stamps.repeated", "arm/right").count == 1


def test_stamps_of_another_clock(tmp_path: Path) -> None:
    told = moved_stamp(1_700_000_000_000 * MS, "exposure_ns", 0, LENGTH_NS, "camera/cam_high")
    result = checked(tmp_path, [t for t in told if t.topic not in ("camera/cam_left_wrist", "camera/cam_right_wrist")])
    only(result, "stamps.clock", "camera/cam_high")


def test_a_camera_at_another_rate(tmp_path: Path) -> None:
    told = changed(lambda t: t if t.header.sequence % 2 else None, "camera/cam_high")
    finding = only(checked(tmp_path, numbered(told)), "rate.off", "camera/cam_high")
    assert "7.5 Hz" in finding.seen


def test_a_sender_that_began_anew(tmp_path: Path) -> None:
    def fault(told: Told) -> Told:
        return told._replace(header=told.header._replace(epoch=7)) if late(told) else told

    only(checked(tmp_path, numbered(changed(fault, "chunk"))), "sender.restarted", "expert", WARNING)


def test_two_senders(tmp_path: Path) -> None:
    def fault(told: Told) -> Told:
        return told._replace(header=told.header._replace(epoch=told.header.sequence % 2))

    only(checked(tmp_path, numbered(changed(fault, "chunk"))), "sender.several", "expert")


def test_a_message_that_is_there_twice(tmp_path: Path) -> None:
    told = [again for t in good() for again in ((t, t) if t.topic == "command" and t.header.sequence == 200 else (t,))]
    only(checked(tmp_path, told), "messages.repeated", "command")


def test_other_nodes_of_ros_do_not_number_their_messages(tmp_path: Path) -> None:
    told = changed(lambda t: t._replace(header=t.header._replace(sequence=0)), "chunk", "task")
    assert checked(tmp_path, told).findings == []


# ---------------------------------------------------------------- cameras


def frozen(camera: str, from_ns: int, to_ns: int) -> list[Told]:
    still = picture(camera, 0, 0)

    def fault(told: Told) -> Told:
        return told.but(jpeg=still.jpeg) if from_ns <= told.log_ns < to_ns else told

    return changed(fault, f"camera/{camera}")


def test_a_frozen_camera_above_moving_arms(tmp_path: Path) -> None:
    finding = only(
        checked(tmp_path, frozen("cam_left_wrist", MID_NS, MID_NS + 800 * MS)), "camera.frozen", "cam_left_wrist"
    )
    assert finding.count == 1
    assert finding.at_s == pytest.approx(1.5, abs=0.07)


def test_raw_images(tmp_path: Path) -> None:
    def raw(told: Told) -> Told:
        return told._replace(message=decompress(told.message)) if isinstance(told.message, m.CompressedFrame) else told

    assert checked(tmp_path, map(raw, good())).findings == []
    (tmp_path / "frozen").mkdir()
    told = map(raw, frozen("cam_high", MID_NS, LENGTH_NS))
    only(checked(tmp_path / "frozen", told), "camera.frozen", "cam_high")


def test_a_still_scene_is_not_frozen_unless_the_rig_says_so(tmp_path: Path) -> None:
    """In the twin two pictures of a still scene are equal; a real camera's never are."""
    told = frozen("cam_right_wrist", MID_NS, LENGTH_NS)  # whose arm stands
    assert checked(tmp_path, told).findings == []
    (tmp_path / "real").mkdir()
    only(checked(tmp_path / "real", told, configured(frozen_frames=10)), "camera.frozen", "cam_right_wrist")


def test_a_delay_that_the_rig_file_knows_is_no_fault(tmp_path: Path) -> None:
    told = moved_stamp(-300 * MS, "exposure_ns", 0, LENGTH_NS, "camera/cam_right_wrist")
    assert checked(tmp_path, told, configured(delay_s={"cam_right_wrist": 0.3})).findings == []


@pytest.mark.parametrize("late_ms", [200, 400])
def test_a_desynchronised_camera(tmp_path: Path, late_ms: int) -> None:
    told = moved_stamp(-late_ms * MS, "exposure_ns", 0, LENGTH_NS, "camera/cam_right_wrist")
    finding = only(checked(tmp_path, told), "camera.desynchronised", "cam_right_wrist")
    assert finding.count > 20


def test_cameras_that_run_freely_are_in_step(tmp_path: Path) -> None:
    def later(told: Told) -> Told:
        at_ns = told.log_ns + FRAME_NS // 2
        return told._replace(header=told.header._replace(sent_ns=at_ns), log_ns=at_ns).but(exposure_ns=at_ns - MS)

    told = sorted(changed(later, "camera/cam_high"), key=lambda each: each.log_ns)
    assert checked(tmp_path, told).findings == []


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    def fault(told: Told) -> Told:
        return told.but(jpeg=np.frombuffer(b"GIF89a" + bytes(200), np.uint8)) if told.header.sequence == 0 else told

    finding = only(checked(tmp_path, changed(fault, "camera/cam_high")), "camera.unreadable", "cam_high")
    assert "cannot be read" in finding.seen


def test_a_robot_has_all_three_cameras(tmp_path: Path) -> None:
    told = changed(lambda t: None, "camera/cam_high")
    assert checked(tmp_path, told).findings == []  # a twin draws what is asked for
    robot = configured(frozen_frames=0).replace('"kind":"twin"', '"kind":"cobot_magic"')
    (tmp_path / "robot").mkdir()
    only(checked(tmp_path / "robot", told, robot), "camera.missing", "cam_high")


# ---------------------------------------------------------------- arms


def joint(position: Any, number: int, value: float) -> Any:
    position = np.array(position)
    position[..., number] = value
    return position


def test_a_joint_at_its_limit(tmp_path: Path) -> None:
    def fault(told: Told) -> Told:
        message = told.message
        assert isinstance(message, m.JointCommand)
        near = 1_000 * MS <= told.log_ns < 2_500 * MS
        return told.but(position_rad=joint(message.position_rad, 4, 1.215)) if near else told

    finding = only(checked(tmp_path, changed(fault, "command")), "joint.saturated", "left joint 5", WARNING)
    assert "1.5 s" in finding.seen
    assert finding.at_s == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("limited", [0, 1 << 4])
def test_a_joint_parked_at_its_limit_only_counts_if_the_gate_kept_it(tmp_path: Path, limited: int) -> None:
    def fault(told: Told) -> Told:
        message = told.message
        assert isinstance(message, m.JointCommand)
        return told.but(position_rad=joint(message.position_rad, 4, 1.22), limited_joints=limited)

    found = checked(tmp_path, changed(fault, "command")).findings
    assert [f.name for f in found] == (["joint.saturated"] if limited else [])


@pytest.mark.parametrize(
    ("topic", "field", "factor", "said"),
    [
        ("arm/left", "position_rad", 180 / np.pi, "look like degrees"),
        ("arm/right", "position_rad", 180_000 / np.pi, "thousandths of a degree"),
        ("command", "position_rad", 180 / np.pi, "look like degrees"),
        ("chunk", "position_rad", 180 / np.pi, "look like degrees"),
        ("arm/left", "gripper_width_m", 1e3, "look like mm"),
        ("arm/left", "gripper_width_m", 1e6, "thousandths of a mm"),
        ("arm/left", "gripper_width_m", 1 / 0.07, "shares of the whole way"),
        ("command", "gripper_width_m", 1e3, "look like mm"),
        ("arm/left", "velocity_rad_s", 180 / np.pi, "no motor can"),
        ("arm/left", "effort_nm", 1e3, "no motor can"),
    ],
)
def test_units(tmp_path: Path, topic: str, field: str, factor: float, said: str) -> None:
    def fault(told: Told) -> Told:
        value = getattr(told.message, field)
        return told.but(**{field: (value * factor).astype(value.dtype) if hasattr(value, "dtype") else value * factor})

    assert said in only(checked(tmp_path, changed(fault, topic)), "units", topic).seen


def test_an_arm_that_does_not_follow(tmp_path: Path) -> None:
    def fault(told: Told) -> Told:
        return told.but(position_rad=np.array([0.0, 1.05, -0.93, 0.0, 1.05, 0.0]))

    result = checked(tmp_path, changed(fault, "arm/left"))
    assert [f.name for f in result.findings] == ["arm.not_following"]


def test_commands_that_never_move(tmp_path: Path) -> None:
    def fault(told: Told) -> Told:
        return told.but(position_rad=np.tile([0.0, 1.05, -0.93, 0.0, 1.05, 0.0], 2), gripper_width_m=np.zeros(2))

    only(checked(tmp_path, changed(fault, "command")), "command.never_moved", "command")


@pytest.mark.parametrize(
    ("topic", "name"),
    [("command", "command.none"), ("arm/left", "arm.missing"), ("intent", "intent.none"), ("chunk", "chunk.none"),
     ("task", "task.missing")],
)  # fmt: skip
def test_what_is_not_there_at_all(tmp_path: Path, topic: str, name: str) -> None:
    only(checked(tmp_path, changed(lambda t: None, topic)), name, topic)


def test_a_person_needs_no_planner(tmp_path: Path) -> None:
    def fault(told: Told) -> Told | None:
        by_person = m.Provenance(source=m.Source.TELEOP, override_id=0)
        return told.but(provenance=by_person) if told.topic == "command" else None

    assert checked(tmp_path, changed(fault, "command", "intent", "chunk", "thought")).findings == []


# ---------------------------------------------------------------- words and numbers


def test_task_texts(tmp_path: Path) -> None:
    result = checked(tmp_path, changed(lambda t: t.but(instruction=" - "), "task"))
    assert [f.name for f in result.findings] == ["task.empty", "task.text"]
    (tmp_path / "b").mkdir()
    only(checked(tmp_path / "b", changed(lambda t: t.but(instruction=""), "task")), "task.empty", "task")
    (tmp_path / "c").mkdir()
    only(
        checked(tmp_path / "c", changed(lambda t: t.but(instruction="a\x1b[2J"), "task")), "task.text", "task", WARNING
    )


def test_nan_in_a_chunk_and_in_a_number(tmp_path: Path) -> None:
    def chunk(told: Told) -> Told:
        message = told.message
        assert isinstance(message, m.ActionChunk)
        return told.but(position_rad=joint(message.position_rad, 3, np.nan)) if told.header.sequence == 9 else told

    only(checked(tmp_path, changed(chunk, "chunk")), "values.not_finite", "chunk.position_rad")
    (tmp_path / "b").mkdir()
    told = changed(lambda t: t.but(gripper_width_m=np.inf) if 40 <= t.header.sequence < 43 else t, "arm/left")
    assert only(checked(tmp_path / "b", told), "values.not_finite", "arm/left.gripper_width_m").count == 3


def test_nan_where_no_message_may_have_it(tmp_path: Path) -> None:
    """The reader refuses such a message; the check tells it, and goes on with the next."""
    strange = struct.pack("<d", 1234.5)
    log = McapLog(tmp_path / "nan.mcap", {}, {"run.json": configured()})
    for told in good():
        message, hit = told.message, told.topic == "arm/left" and told.header.sequence in (200, 201)
        if hit:
            assert isinstance(message, m.ArmState)
            message = told.but(position_rad=joint(message.position_rad, 0, 1234.5)).message
        frames = [bytes(frame) for frame in encode_body(message)]
        if hit:
            assert strange in frames[0]
            frames[0] = frames[0].replace(strange, struct.pack("<d", np.nan))
        log.write(told.header, type(message), frames, told.log_ns)
    result = check_episode(log.close({"outcome": "success"}))
    assert [f.name for f in result.findings if f.where != "arm/left"] == ["values.not_finite"]
    assert next(f for f in result.findings if f.name == "values.not_finite").count == 2


def health(process: str, at_ns: int, number: int, dropped: int) -> Told:
    message = m.Health(
        process=process, stamp_ns=at_ns, pid=1, realtime="", steps=1, step_p50_s=0.0, step_p99_s=0.0, step_max_s=0.0,
        lateness_p50_s=0.0, lateness_p99_s=0.0, lateness_max_s=0.0, received=0, refused=0, dropped=dropped,
        last_refusal="",
    )  # fmt: skip
    return Told(Header(f"health/{process}", 0, number, at_ns, 0), message, at_ns)


def test_dropped_messages_that_a_process_tells(tmp_path: Path) -> None:
    counts = [4, 4, 9, 9, 11, 11]  # of which 4 were before the episode
    extra = [health("recorder", 500 * MS * k + MS, k, count) for k, count in enumerate(counts)]
    told = sorted((*good(), *extra), key=lambda t: t.log_ns)
    assert only(checked(tmp_path, told), "messages.dropped", "recorder", WARNING).count == 7


def test_faults_that_devices_tell(tmp_path: Path) -> None:
    told = changed(lambda t: t.but(faults=("joint 3 <b>hot</b>",)) if t.header.sequence == 99 else t, "arm/left")
    assert "hot" in only(checked(tmp_path, told), "arm.fault", "arm/left").seen
    lost = (m.CameraFault(camera="cam_high", what="lost", for_s=0.4),)
    told = changed(lambda t: t.but(faults=lost) if t.header.sequence == 15 else t, "cameras")
    (tmp_path / "b").mkdir()
    only(checked(tmp_path / "b", told), "camera.told_lost", "cam_high", WARNING)
