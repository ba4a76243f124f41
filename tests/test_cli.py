"""The command line: what it refuses, in one line, with the valid choices and exit status 2."""

import json
import sys
from pathlib import Path

import pytest

from syvla.cli import COMMANDS, main


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["syvla", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("eval", "--task", "juggling"), "no task 'juggling'; there are math_packaging, snack_loading"),
        (("eval", "--split", "hard"), "has no split 'hard'; there are id, ood_position, ood_wording"),
        (("eval", "--policy", "genius"), "no policy 'genius'; there are reference"),
        (("eval", "--jobs", "0"), "jobs must be at least 1"),
        (("demonstrate", "out", "--astray", "0.2"), "astray must be 0 to 0.05 m, not 0.2"),
        (("demonstrate", "out", "--learner", "reference"), "learner must be learned or the folder of a checkpoint"),
        (("demonstrate", "out", "--learner", "nowhere"), "no policy 'nowhere'"),
        (("demonstrate", "out", "--misses", "1.5"), "misses must be 0 to 1, not 1.5"),
        (("demonstrate", "out", "--wordings", "-1"), "wordings must be 0 to 1000, not -1"),
        (("demo", "--policy", "genius"), "no policy 'genius'; there are reference, learned, or give the folder"),
        (("demo", "--policy", "."), "holds no checkpoint (no syvla.json)"),
        (("eval", "--episodes", "0"), "episodes must be at least 1"),
        (("eval", "--planner-latency", "-1"), "planner latency must be 0 to 10 s"),
        (("demo", "--planner", "tcp://10.0.0.1:5570", "--policy", "reference"), "encrypted links are required"),
        (("demo", "--planner", "tcp://10.0.0.1:5570", "--keys", "nowhere"), "no folder of keys; 'syvla keys"),
        (("demo", "--keys", "nowhere"), "give --planner tcp://host:port too"),
        (("demo", "--jpeg", "96"), "jpeg must be 1 to 95, or 0 for raw images, not 96"),
        (("demo", "--planner", "tcp://127.0.0.1:1", "--planner-latency", "1"), "has its own --latency"),
        (("planner", "--policy", "reference", "--bind", "tcp://0.0.0.0:5570"), "encrypted links are required"),
        (("planner", "--policy", "reference", "--keys", "nowhere"), "no folder of keys; 'syvla keys"),
        (("planner", "--policy", "genius"), "no policy 'genius'; there are reference"),
        (("demo", "--rig", "nonesuch"), "no rig 'nonesuch'; there are cobot_magic, twin"),
        (("demo", "--rig", "cobot_magic"), "which only a twin's can be"),
        (("bench", "nothing"), "no benchmark 'nothing'; there are transport"),
        (("report", __file__), "does not begin as an MCAP file"),
        (("replay", "view", __file__), "does not begin as an MCAP file"),
        (("replay", "view", "/"), "not a regular file"),
        (("replay", "view", "nowhere.mcap"), "nowhere.mcap: No such file or directory"),
        (("replay", "view", __file__, "--video-height", "9"), "--video-height must be 60 to 720, or 0, not 9"),
        (("stage", "robot", "/nonexistent", "1"), "run.json"),
        (("doctor", "--rig", "nonesuch"), "no rig 'nonesuch'; there are cobot_magic, twin"),
        (("doctor", "--policy", "genius"), "no policy 'genius'; there are reference, learned"),
        (("setup-can", "--rig", "twin"), "its arms are not on socketcan"),
        (("setup-can", "--left", "1-2:1.0"), "give both --left and --right"),
        (("setup-can", "--identify", "--left", "1-2:1.0"), "give one or the other"),
        (("setup-can", "--run", "--udev"), "--run and --udev exclude each other"),
    ],
)
def test_bad_input_is_one_line_with_the_choices(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert error.count("\n") == 0
    assert list(tmp_path.iterdir()) == [], "nothing was left behind"


def test_eval_prints_and_writes_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "eval.json"
    assert status(monkeypatch, "eval", "--task", "snack_loading", "--episodes", "2", "--json", str(out)) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    (rate,) = result["rates"]
    assert (rate["task"], rate["split"], rate["episodes"]) == ("snack_loading", "id", 2)
    assert rate["low"] < rate["rate"] <= rate["high"]
    assert f"{rate['successes']}/2" in printed.replace(" ", "")
    assert len(result["episodes"]) == 2
    assert next(iter(result)) == "result_of"
    again = ("eval", "--task", "snack_loading", "--episodes", "1", "--json", str(out))
    assert status(monkeypatch, *again) == 0
    assert "over the one of before" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["episodes"]) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["eval.json"]


def test_keys_are_made_once_and_shown_with_what_to_do_with_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "keys"
    assert status(monkeypatch, "keys", str(folder)) == 0
    first = capsys.readouterr().out
    assert "never leaves this machine" in first
    assert "no robot may connect" in first
    (folder / "allowed" / "robot-1.key").write_bytes((folder / "own.key").read_bytes())
    assert status(monkeypatch, "keys", str(folder)) == 0
    second = capsys.readouterr().out
    assert "never leaves this machine" not in second
    assert "allowed/robot-1.key" in second
    secret = (folder / "own.key_secret").read_text().split('"')[3]
    assert secret not in first + second
    assert first.splitlines()[1] == second.splitlines()[0], "the same key"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert status(monkeypatch, command, "--help") == 0
    assert "usage" in capsys.readouterr().out


RECORDING = b"\x89MCAP0\r\n"


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        (RECORDING, True),
        (b'{"rig": "mine"}', True),
        (b"[1, 2]", True),
        (b'{\n  "result_of": "syvla doctor"\n}\n', True),
        (b'{\n  "result_of": "syvla', True),
        (b"", False),
    ],
)
@pytest.mark.parametrize("command", [("eval", "--jobs", "0"), ("replay", "verify")])
def test_a_result_is_written_over_an_earlier_one_of_its_command_only(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    there: bytes,
    kept: bool,
    command: tuple[str, ...],
) -> None:
    """A result was once written over whatever was there: a recording, then any JSON."""
    target = tmp_path / "there.json"
    target.write_bytes(there)
    arguments = (*command, str(target)) if command[0] == "replay" else command
    assert status(monkeypatch, *arguments, "--json", str(target)) == 2
    error = capsys.readouterr().err
    assert ("exists, was not written by syvla" in error) == kept
    assert error.count("\n") == 1
    assert target.read_bytes() == there


@pytest.mark.parametrize("command", [("eval", "--jobs", "0"), ("replay", "verify", __file__)])
def test_a_run_that_fails_leaves_no_empty_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    target = tmp_path / "new" / "folder" / "out.json"
    assert status(monkeypatch, *command, "--json", str(target)) == 2
    assert list(tmp_path.iterdir()) == []


def test_where_no_result_can_be_put_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(RECORDING)
    assert status(monkeypatch, "bench", "lockstep", "--json", str(tmp_path / "file" / "a" / "out.json")) == 2
    assert "file is no folder" in capsys.readouterr().err
    assert status(monkeypatch, "bench", "lockstep", "--json", str(tmp_path)) == 2
    assert "is no regular file" in capsys.readouterr().err
    assert status(monkeypatch, "bench", "lockstep", "--json", str(tmp_path / "file")) == 2
    assert "exists, was not written by syvla bench lockstep, and is not overwritten" in capsys.readouterr().err
