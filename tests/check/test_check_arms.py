"""Rules about arms, words and numbers: one fault in a good recording, and exactly that is found."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.check.episodes import (
    MS,
    Told,
    changed,
    checked,
    configured,
    good,
    only,
)

from syvla import messages as m
from syvla.check.episode import check_episode
from syvla.check.finding import Severity
from syvla.protocols import Header
from syvla.recording.mcap_log import McapLog
from syvla.transport.codec import encode_body

ERROR, WARNING = Severity.ERROR, Severity.WARNING


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


@pytest.mark.parametrize("value", [1.9, 40.0])
def test_one_joint_that_is_far_beyond_its_limit_is_in_no_other_unit(tmp_path: Path, value: float) -> None:
    def fault(told: Told) -> Told:
        assert isinstance(told.message, m.ArmState)
        return told.but(position_rad=joint(told.message.position_rad, 4, value))

    finding = only(checked(tmp_path, changed(fault, "arm/left")), "joint.beyond", "arm/left")
    assert finding.seen.startswith(f"joint 5 reaches {value:g} rad; it is limited to ")


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


def test_the_text_that_is_strange_is_shown_and_not_the_one_after_it(tmp_path: Path) -> None:
    told = list(good())
    first = next(each for each in told if each.topic == "task")
    more = (MS, "open\tthe box"), (2 * MS, "open it")
    for after_ns, text in more:
        header = first.header._replace(sequence=first.header.sequence + after_ns // MS)
        told.append(first._replace(header=header, log_ns=first.log_ns + after_ns).but(instruction=text))
    result = checked(tmp_path, sorted(told, key=lambda each: each.log_ns))
    assert "open\\tthe box" in only(result, "task.text", "task", WARNING).seen
    assert result.instruction == "open it"


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
