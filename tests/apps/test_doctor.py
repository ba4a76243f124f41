"""The doctor as a whole: on a machine that has nothing, and as the command on this one."""

import json
import sys
from pathlib import Path

import pytest
from tests.apps.made_up import made_up, put

from syvla.apps.doctor import doctor, findings
from syvla.apps.finding import State
from syvla.cli import main
from syvla.config import RigConfig
from syvla.runs import load_rig

TWIN, ROBOT = load_rig("twin"), load_rig("cobot_magic")


@pytest.mark.parametrize("rig", [TWIN, ROBOT], ids=["twin", "robot"])
def test_a_machine_that_has_nothing_is_looked_at_to_the_end(tmp_path: Path, rig: RigConfig) -> None:
    found = list(findings(made_up(tmp_path), rig, "reference", tmp_path))
    names = [finding.name for finding in found]
    assert len(names) == len(set(names))
    areas = {"can", "cameras", "controller", "realtime", "disk", "ros", "gpu", "checkpoint", "calibration", "clock"}
    assert areas <= {name.split(".")[0] for name in names}
    assert all(finding.seen for finding in found)
    assert all(finding.fix for finding in found if finding.state is not State.OK), "whatever is not well has its fix"


def test_a_file_that_cannot_be_understood_is_a_finding(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/status", "CapEff: no number")
    found = {finding.name: finding for finding in findings(made_up(tmp_path), TWIN, "reference", tmp_path)}
    assert found["realtime.unreadable"].state is State.PROBLEM
    assert "clock.monotonic" in found, "and the areas after it are looked at"


def test_only_what_the_rig_needs_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = {"can": "4.6", "piper_sdk": "0.6.2", "mujoco": "4.0", "av": "18", "matplotlib": "3.11"}
    machine = made_up(tmp_path, packages=packages)
    assert doctor(machine, TWIN, "reference", tmp_path, as_json=False) == 0
    assert "rig 'twin' can run here (problems: 0" in capsys.readouterr().out
    assert doctor(machine, ROBOT, "reference", tmp_path, as_json=False) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM" in printed
    assert "rig 'cobot_magic' cannot run here" in printed


def test_the_command_prints_one_json_object_of_a_known_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["syvla", "doctor", "--json", "--policy", "reference"])
    with pytest.raises(SystemExit) as left:
        main()
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"schema_version", "rig", "kind", "policy", "well", "findings"}
    assert (report["schema_version"], report["rig"], report["kind"], report["policy"]) == (
        1,
        "twin",
        "twin",
        "reference",
    )
    assert all(set(finding) == {"name", "state", "seen", "fix"} for finding in report["findings"])
    assert {finding["state"] for finding in report["findings"]} <= {"ok", "warning", "problem", "not_here"}
    assert report["well"] is True, [finding for finding in report["findings"] if finding["state"] == "problem"]
    assert left.value.code == 0
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
