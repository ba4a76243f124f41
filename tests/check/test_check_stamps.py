"""Rules about time and numbers: one fault in a good recording, and exactly that is found."""

from pathlib import Path

import pytest
from tests.check.episodes import (
    GOLDEN,
    LENGTH_NS,
    MID_NS,
    MS,
    Told,
    changed,
    checked,
    good,
    late,
    moved_stamp,
    numbered,
    only,
)

from syvla import messages as m
from syvla.check.episode import check_episode
from syvla.check.finding import Severity

ERROR, WARNING = Severity.ERROR, Severity.WARNING


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

    result = checked(tmp_path, numbered(changed(fault, "command", "safety", "splice", "arm/left", "arm/right")))
    assert only(result, "sender.restarted", "robot", WARNING).count == 1


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
