"""Replay of recorded episodes: to the bit as they were, and what would have been different otherwise."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.apps.replay_policy import Change, replay, what_if
from syvla.apps.replay_verify import exact_stages, verify
from syvla.cli import main
from syvla.errors import ConfigError, RecordingError
from syvla.messages import ArmState, Intent, Source
from syvla.policies import shipped_checkpoint
from syvla.recording.mcap_log import McapLog
from syvla.recording.mcap_read import RawRecord, Recording
from syvla.report.comparison import words
from syvla.runs import lockstep_run
from syvla.stages.recorder import RecorderStage
from syvla.transport.codec import encode_body, pack_record
from syvla_models.spec import load_spec, save_spec

LIMIT_S = 5.1


def silent(_: str) -> None:
    """Progress is not of interest."""


def recorded(folder: Path, policy: str, limit_s: float = LIMIT_S, preempt_after_s: float = 0.0, seed: int = 0) -> Path:
    """An episode that ends before the task is done, with the images as they were."""
    run = lockstep_run("twin", 0.3, 0.03, policy, preempt_after_s=preempt_after_s)
    raw = msgspec.structs.replace(run.rig.recorder, image_format="raw")
    run = msgspec.structs.replace(run, rig=msgspec.structs.replace(run.rig, recorder=raw))
    run_lockstep(run, Episode("snack_loading", "id", seed, "episode", limit_s), [RecorderStage(folder, run)])
    return folder / "episode.mcap"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds of the policy that ships, in which nothing surprises it: its own seams are soft."""
    return recorded(tmp_path_factory.mktemp("learned"), "learned", seed=1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds of the reference policy."""
    return recorded(tmp_path_factory.mktemp("reference"), "reference")


def rewritten(path: Path, folder: Path, change: dict[str, bytes] | None = None, drop: Sequence[str] = ()) -> Path:
    """A copy of a recording without the topics of ``drop`` and with other attachments."""
    recording = Recording(path)
    attachments = {**recording.attachments, **{name: text.decode() for name, text in (change or {}).items()}}
    log = McapLog(folder / "copy.mcap", recording.run, attachments)
    for raw in recording.records():
        if raw.topic not in drop:
            write(log, raw)
    return log.close({"outcome": "success"})


def write(log: McapLog, raw: RawRecord) -> None:
    log.write_record(raw.topic, raw.kind, raw.data, raw.log_time_ns, raw.sent_ns, raw.sequence)


def test_every_stage_sends_to_the_bit_what_it_sent(learned: Path) -> None:
    recording = Recording(learned)
    assert exact_stages(recording) == ("planner", "expert", "robot")
    results = {each.stage: each for each in verify(recording, exact_stages(recording), silent)}
    assert all(each.exact for each in results.values()), results
    assert results["robot"].steps > 700
    assert results["expert"].steps > 70
    assert results["planner"].steps > 10
    assert all(each.seconds > 3.0 for each in results.values())


def test_thoughts_that_newer_observations_ended_are_made_again(tmp_path: Path) -> None:
    """In lockstep a thought is whole as soon as it begins: a planner that was cut went on from one nobody had heard.

    Thoughts that stand for a while are those that it shows in.
    """
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(shipped_checkpoint(), checkpoint)
    spec = load_spec(checkpoint)
    save_spec(checkpoint, msgspec.structs.replace(spec, planner=msgspec.structs.replace(spec.planner, think="every_s")))
    recording = Recording(recorded(tmp_path, str(checkpoint), preempt_after_s=0.1))
    said = (received.message for received in recording.messages({"intent"}))
    intents = {message.intent_id for message in said if isinstance(message, Intent)}
    assert len(intents) >= 5
    assert len(set(range(max(intents))) - intents) >= 5, "cut"
    (result,) = verify(recording, ("planner",), silent)
    assert result.exact, result
    assert result.steps > 10


def test_the_robot_stage_of_the_reference_policy_too(reference: Path) -> None:
    recording = Recording(reference)
    assert exact_stages(recording) == ("robot",)
    (result,) = verify(recording, ("robot",), silent)
    assert result.exact
    with pytest.raises(ConfigError, match="the planner of the reference policy cannot be run again"):
        verify(recording, ("planner",), silent)


def test_another_gate_is_found_out(reference: Path, tmp_path: Path) -> None:
    """The check can fail: the same messages under a limit that the recorded robot did not have."""
    run = json.loads(Recording(reference).attachments["run.json"])
    run["rig"]["safety"]["velocity_rad_s"] = [0.3] * 6
    other = rewritten(reference, tmp_path, {"run.json": json.dumps(run).encode()})
    (result,) = verify(Recording(other), ("robot",), silent)
    assert not result.exact
    assert result.differing > 100
    assert "sends another command" in result.first


def test_one_bit_of_one_command_is_found_out(reference: Path, tmp_path: Path) -> None:
    recording, flipped = Recording(reference), 0
    log = McapLog(tmp_path / "flipped.mcap", recording.run, recording.attachments)
    for k, raw in enumerate(recording.records()):
        if raw.topic == "command" and k > 2000 and not flipped:
            (message,) = (r for r in recording.messages({"command"}) if r.header.sequence == raw.sequence)
            command = message.message
            position = np.array(command.position_rad)  # type: ignore[attr-defined]
            position[3] = np.nextafter(position[3], 9.0)
            changed = msgspec.structs.replace(command, position_rad=position)
            envelope = msgspec.msgpack.encode((1, *message.header, 0))
            raw = raw._replace(data=pack_record([envelope, *encode_body(changed)]))
            flipped = 1
        write(log, raw)
    assert flipped
    (result,) = verify(Recording(log.close({"outcome": "success"})), ("robot",), silent)
    assert result.differing == 1
    assert "sends another command" in result.first


def test_an_episode_in_which_nothing_moved_proves_nothing(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty,) = verify(Recording(rewritten(reference, tmp_path, drop=("command",))), ("robot",), silent)
    assert (empty.steps, empty.exact) == (0, False)
    monkeypatch.setattr("syvla.apps.replay_verify.MOVED_RAD", 9.0)  # none of these joints moved so far
    with pytest.raises(RecordingError, match=r"moved no joint by 9 rad: that would prove nothing"):
        verify(Recording(reference), ("robot",), silent)


def test_a_gap_between_the_steps_is_found_out(reference: Path, tmp_path: Path) -> None:
    """One step of ten thousand that could be repeated used to be enough for "to the bit"."""
    recording = Recording(reference)
    log = McapLog(tmp_path / "gap.mcap", recording.run, recording.attachments)
    lost = False
    for k, raw in enumerate(recording.records()):
        lose = raw.topic == "command" and k > 2000 and not lost
        lost = lost or lose
        if not lose:
            write(log, raw)
    (result,) = verify(Recording(log.close({"outcome": "success"})), ("robot",), silent)
    assert (result.differing, result.exact) == (0, False)
    assert 0 < result.gaps <= 201, "up to the next memory"


@pytest.mark.parametrize(("drop", "match"), [(("steps/robot",), "no step"), (("memory/robot",), "no step")])
def test_a_recording_without_steps_is_refused(reference: Path, tmp_path: Path, drop: Sequence[str], match: str) -> None:
    bare = Recording(rewritten(reference, tmp_path, drop=drop))
    (result,) = verify(bare, ("robot",), silent)
    assert not result.exact
    with pytest.raises(RecordingError, match=match):
        what_if(bare, Change(settings=("safety.first_step_rad=0.2",)), None, silent)


def test_with_nothing_changed_nothing_would_have_been_different(learned: Path) -> None:
    """All three stages together, each reading what the others say now; and again with the time that each took."""
    same = Change(policy="learned", settings=("safety.first_step_rad=0.1",))
    for change in (same, same._replace(planner_latency_s=0.3, expert_latency_s=0.03)):
        found = what_if(Recording(learned), change, 1.6, silent)
        messages = found.figures["messages"]
        assert {topic for topic, each in messages.items() if not each["same"]} == set()
        assert messages["command"]["recorded"] > 600
        assert messages["chunk"]["recorded"] > 50
        assert found.figures["first_other_command_s"] is None
        assert found.figures["recorded"] == found.figures["otherwise"]
        assert not found.chunk_error.any()


def test_a_slow_planner_would_have_held_the_arms(learned: Path) -> None:
    found = what_if(Recording(learned), Change(planner_latency_s=0.8), 1.6, silent)
    assert found.figures["recorded"]["holds"]["count"] == 0
    (hold,) = found.figures["otherwise"]["holds"]["each"]
    assert "intent_stale" in [cause["code"] for cause in hold["causes"]]
    assert found.figures["otherwise"]["intent"]["age_at_command_s"]["max"] > 0.9
    assert 1.6 < found.figures["first_other_command_s"] <= found.figures["diverged_s"] < LIMIT_S
    assert any("otherwise: hold at" in line for line in words(found))
    with_patience = Change(planner_latency_s=0.8, settings=("intent.stale_policy=use",))
    assert what_if(Recording(learned), with_patience, 1.6, silent).figures["otherwise"]["holds"]["count"] == 0


def test_hard_seams_are_seen(learned: Path) -> None:
    found = what_if(Recording(learned), Change(continuity="replace"), 1.6, silent)
    sides = found.figures["recorded"], found.figures["otherwise"]
    jumps = [side["chunk"]["jump_rad"]["p99"] for side in sides]
    assert jumps[1] > 2 * jumps[0]
    assert found.figures["chunks_compared"] > 50
    assert found.chunk_error.shape == (50, 14)
    assert found.figures["messages"]["chunk"]["same"] is False
    assert "planner" not in Change(continuity="replace").stages


def test_slow_limits_change_the_robot_alone(reference: Path) -> None:
    slow = Change(settings=("safety.velocity_rad_s=[0.3, 0.3, 0.3, 0.3, 0.3, 0.3]",))
    found = what_if(Recording(reference), slow, None, silent)
    assert set(found.figures["messages"]) == {"arm/left", "arm/right", "command", "splice", "safety"}
    assert found.figures["messages"]["arm/left"]["same"], "what was measured stays what it was"
    limited = [found.figures[side]["gate"]["commands_limited"] for side in ("recorded", "otherwise")]
    assert limited[1] > limited[0]
    commands = found.otherwise.commands
    speed = np.abs(np.diff(commands.position_rad, axis=0)).max(axis=1) / 0.005
    assert speed[40:].max() <= 0.3 + 1e-6, "once what it had has been braked"


@pytest.mark.parametrize(
    ("change", "at_s", "match"),
    [
        (Change(settings=("safety.first_step=1",)), None, "safety has no 'first_step'; there are position_min_rad"),
        (Change(settings=("safety.first_step_rad=far",)), None, "safety.first_step_rad=far"),
        (Change(settings=("recorder.jpeg_quality=1",)), None, "write SECTION.KEY=VALUE, with one of safety, intent"),
        (Change(settings=("intent.stale_policy",)), None, "write SECTION.KEY=VALUE"),
        (Change(settings=("control.rate_hz=100",)), None, "the ticks are those that were recorded"),
        (Change(planner_latency_s=float("nan")), None, "planner latency must be 0 to 10 s"),
        (Change(expert_latency_s=-1.0), None, "expert latency must be 0 to 10 s"),
        (Change(policy="genius"), None, "no policy 'genius'"),
        (Change(continuity="replace"), 400.0, "at must be"),
        (Change(continuity="replace"), -1.0, "at must be"),
    ],
)
def test_what_cannot_be_changed_is_named(learned: Path, change: Change, at_s: float | None, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        what_if(Recording(learned), change, at_s, silent)


def test_figures_and_picture_are_written_and_nothing_is_overwritten(reference: Path, tmp_path: Path) -> None:
    change = Change(settings=("safety.first_step_rad=0.2",))
    for k in (1, 2):
        lines = replay(reference, change, None, tmp_path, silent)
        assert lines[-1].endswith(f"episode.replay-{k}.json and .png")
        figures = json.loads((tmp_path / f"episode.replay-{k}.json").read_text())
        assert figures["change"] == {"settings": ["safety.first_step_rad=0.2"]}
        assert (tmp_path / f"episode.replay-{k}.png").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="nothing is changed"):
        replay(reference, Change(), None, tmp_path, silent)


def test_the_command_line(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["syvla", "replay", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        return left.value.code

    assert status("verify", str(reference)) == 0
    assert "to the bit" in capsys.readouterr().out
    assert status("verify", str(rewritten(reference, tmp_path, drop=("memory/robot",)))) == 1
    assert status("verify", str(reference), "--stages", "cameras") == 2
    assert "no stage 'cameras' can be run again; there are planner, expert, robot" in capsys.readouterr().err
    assert status("policy", str(reference), "--set", "safety.first_step_rad=0.2", "--out", str(tmp_path)) == 0
    assert "commands" in capsys.readouterr().out
    assert status("policy", __file__, "--at", "1") == 2


def test_the_recorded_episode_moved_by_the_policy(reference: Path) -> None:
    """What these tests stand on: motion was enabled, and the arms followed."""
    commands = [r.message for r in Recording(reference).messages({"command"})]
    assert {c.provenance.source for c in commands} >= {Source.POLICY}  # type: ignore[attr-defined]
    states = [r.message for r in Recording(reference).messages({"arm/left", "arm/right"})]
    assert all(s.enabled for s in states if isinstance(s, ArmState))
    travel = np.ptp(np.array([c.position_rad for c in commands]), axis=0)  # type: ignore[attr-defined]
    assert travel.max() > 0.3
