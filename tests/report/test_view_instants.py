"""What the page says of one instant: of the things that there were then, and nothing of what came later."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.conftest import MS, PERIOD, T0, S, Script, record, run_config

from syvla import messages as m
from syvla.recording.mcap_read import Recording
from syvla.report import page as page_folder
from syvla.report.page import embedded
from syvla.report.view_data import page_data, read


def shown(folder: Path, script: Script, at_s: float = 0.0, for_s: float = 600.0) -> dict[str, Any]:
    """The page's data of what was recorded."""
    script.send(T0, "episode", m.EpisodeControl(action="start", name="e", issued_ns=T0))
    record(folder, script, run_config()).close()
    data: dict[str, Any] = json.loads(embedded(page_data(read(Recording(folder / "e.mcap"), at_s, for_s), None, ())))
    return data


def said(folder: Path, data: dict[str, Any], instants: Sequence[float]) -> dict[str, Any]:
    """What the page's own script says at these instants."""
    if (node := shutil.which("node")) is None:
        pytest.skip("no node here")
    (folder / "data.json").write_text(json.dumps(data))
    check, page = Path(__file__).parent / "panel_check.js", Path(page_folder.__file__).parent
    command = [node, str(check), str(page), str(folder / "data.json"), *map(str, instants)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def send_intent(script: Script, number: int, seen_ns: int, came_ns: int, text: str) -> None:
    intent = m.Intent(
        intent_id=number, task_id=1, observation_ns=seen_ns, chain_of_thought=text,
        feature_query_states=np.zeros((20, 32), np.float16), model_id=f"model of {text}",
    )  # fmt: skip
    script.send(came_ns, "intent", intent)


def send_chunk(script: Script, number: int, seen_ns: int, rows: int, jump_rad: float) -> None:
    chunk = m.ActionChunk(
        task_id=1, chunk_id=number, intent_id=0, intent_observation_ns=seen_ns, observation_ns=seen_ns,
        period_ns=PERIOD, position_rad=np.zeros((rows, 12), np.float32),
        gripper_width_m=np.zeros((rows, 2), np.float32), inference_delay_steps=0,
    )  # fmt: skip
    script.send(seen_ns + 10 * MS, "chunk", chunk)
    splice = m.Splice(
        splice_id=number, chunk_id=number, intent_id=0, replaced_chunk_id=-1, observation_ns=seen_ns,
        spliced_ns=seen_ns + 12 * MS, inference_delay_steps=0, jump_rad=jump_rad,
    )  # fmt: skip
    script.send(seen_ns + 12 * MS, "splice", splice)


def send_command(script: Script, at_ns: int, provenance: m.Provenance, row: float = 0.0, age_s: float = 0.1) -> None:
    command = m.JointCommand(
        command_id=0, commanded_ns=at_ns, position_rad=np.full(12, row), gripper_width_m=np.zeros(2),
        provenance=provenance, intent_age_s=age_s, limited_joints=0,
    )  # fmt: skip
    script.send(at_ns, "command", command)


def test_after_a_restart_everything_has_the_numbers_of_before(tmp_path: Path) -> None:
    script, lives = Script(), ((T0, "before", 50, 0.001), (T0 + S, "after", 30, 0.02))
    for begun_ns, text, rows, jump_rad in lives:
        send_intent(script, 0, begun_ns, begun_ns + 100 * MS, text)
        send_chunk(script, 0, begun_ns + 110 * MS, rows, jump_rad)
        for at_ns in range(begun_ns, begun_ns + 300 * MS, 5 * MS):
            send_command(script, at_ns, m.Provenance(source=m.Source.HOLD), age_s=-1.0)
        for at_ns in range(begun_ns + 300 * MS, begun_ns + S, 5 * MS):
            provenance = m.Provenance(
                source=m.Source.POLICY, observation_ns=begun_ns + 110 * MS, intent_id=0, intent_observation_ns=begun_ns,
                chunk_id=0, chunk_row=rows - 1, splice_id=0,
            )  # fmt: skip
            send_command(script, at_ns, provenance)
    data = shown(tmp_path, script)
    assert [thought[4:6] for thought in data["thoughts"]] == [
        ["before", "model of before"],
        ["after", "model of after"],
    ]
    assert [chunk[5:] for chunk in data["chunks"]] == [[50, 49, 49], [30, 29, 29]]
    stood = [finding[5] for finding in data["findings"] if finding[3] == "speed"]
    assert [words.split("thought: ")[1] for words in stood] == ["before", "after"]
    assert len([finding for finding in data["findings"] if finding[4].startswith("no newer chunk")]) == 2
    told = said(tmp_path, data, [0.5, 1.5])
    assert [each["thought"] for each in told["said"]] == ["before", "after"]
    assert [each["provenance"]["chunk"] for each in told["said"]] == ["0, row 49 of 50", "0, row 29 of 30"]
    jumps = [each["provenance"]["splice"].split(", ")[-1] for each in told["said"]]
    assert jumps == ["jump 1.0 mrad", "jump 20.0 mrad"]
    assert [span[2] for span in told["inForce"]] == ["before", "after"]


@pytest.mark.parametrize(
    ("for_s", "ends"), [(1.6, "; still thinking where this part ends"), (600.0, "; it never came")]
)
def test_a_thought_that_comes_after_the_part_is_not_said_never_to_have_come(
    tmp_path: Path, for_s: float, ends: str
) -> None:
    """One thought is given up for the next, which comes after the part that is shown; the last comes never."""
    script = Script()
    for number, seen_ns in enumerate((T0, T0 + 800 * MS, T0 + 2200 * MS)):
        thought = m.Thought(task_id=1, intent_id=number, observation_ns=seen_ns, text="I think", complete=False)
        script.send(seen_ns + 100 * MS, "thought", thought)
    send_intent(script, 1, T0 + 800 * MS, T0 + 2 * S, "I think so")
    for at_ns in range(T0, T0 + 3 * S, 5 * MS):
        send_command(script, at_ns, m.Provenance(source=m.Source.HOLD), age_s=-1.0)
    data = shown(tmp_path, script, for_s=for_s)
    part = for_s < 2
    assert [thought[3] for thought in data["thoughts"]] == ([False, None] if part else [False, True, False])
    told = said(tmp_path, data, [0.5, 1.5 if part else 2.9])["said"]
    assert told[0]["next"].endswith("; it never came")
    assert told[1]["next"].endswith(ends)
    if part:
        (note,) = [note for note in data["notes"] if note.startswith("Only seconds")]
        again = float(note.split("--at ")[1].split()[0])
        assert for_s - 0.02 < again <= for_s, "nothing lies between this part and the next"


def send_safety(script: Script, at_ns: int, mode: m.Mode, *codes: str) -> None:
    reasons = tuple(m.Reason(code=code, detail=f"{code} at {at_ns - T0}", next_step="resume") for code in codes)
    state = m.SafetyState(
        stamp_ns=at_ns, mode=mode, source=m.Source.HOLD, reasons=reasons, limited_joints=0, clamped_count=0,
        refused_count=0, arm_distance_m=0.2,
    )  # fmt: skip
    script.send(at_ns, "safety", state)


def test_causes_are_shown_when_they_were_named_and_no_mode_when_nothing_was_said(tmp_path: Path) -> None:
    """A hold by one cause, then by another, then by the first again; then the robot is silent for a second."""
    script = Script()
    for at_ns in range(T0, T0 + 4 * S, 50 * MS):
        second = (at_ns - T0) / S
        if 2 <= second < 3:
            continue
        codes = [code for code, named in (("stale", not 0.5 <= second < 1.5), ("fault", second >= 0.5)) if named]
        send_safety(script, at_ns, m.Mode.HOLD, *codes)
    for at_ns in range(T0, T0 + 4 * S, 5 * MS):
        send_command(script, at_ns, m.Provenance(source=m.Source.HOLD), age_s=-1.0)
    data = shown(tmp_path, script)
    assert [mode[:3] for mode in data["modes"]] == [
        [pytest.approx(0.0, abs=0.06), pytest.approx(2.15, abs=1e-3), "hold"],
        [pytest.approx(3.0, abs=1e-3), pytest.approx(4.0, abs=6e-3), "hold"],
    ]
    told = said(tmp_path, data, [0.2, 1.0, 1.8, 2.1, 2.5, 3.5])["said"]
    assert [each["reasons"] for each in told] == [
        ["stale"], ["fault"], ["stale", "fault"], ["stale", "fault"], [], ["stale", "fault"],
    ]  # fmt: skip
    assert [each["mode"] for each in told] == ["hold"] * 4 + [None, "hold"]


def test_numbers_that_are_none_are_not_shown_as_some_and_every_source_has_a_colour(tmp_path: Path) -> None:
    script = Script()
    send_chunk(script, 0, T0, 50, float("nan"))
    for at_ns in range(T0 + 20 * MS, T0 + S, 5 * MS):
        provenance = m.Provenance(source=m.Source.UNKNOWN, chunk_id=0, chunk_row=1, splice_id=0, intent_id=4)
        send_command(script, at_ns, provenance, age_s=-1.0)
    told = said(tmp_path, shown(tmp_path, script), [0.5])
    assert told["said"][0]["provenance"]["splice"].endswith("jump -")
    assert told["said"][0]["provenance"]["intent"] == "4"
    assert told["said"][0]["intent"] == "intent 4; it came before what is shown"
    assert None not in told["colours"]
    assert len(set(told["colours"])) == len(m.Source)


def test_a_file_whose_name_is_not_utf_8_has_a_page(blind: Path, tmp_path: Path) -> None:
    """Of the command, which also says the name."""
    recording = os.fsdecode(os.fsencode(tmp_path) + b"/one\xff.mcap")
    shutil.copy(blind, recording)
    command = [sys.executable, "-m", "syvla.cli", "replay", "view", recording]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"one\\udcff.view.html" in done.stdout
    page = Path(os.fsdecode(os.fsencode(tmp_path) + b"/one\xff.view.html")).read_text()
    assert "<title>one\\xff.mcap" in page
