"""The golden episodes: what expert, timeline and gate make of the recorded inputs is what they made of them.

After a change that is meant, ``pytest tests/replay --update-golden`` records them anew; the ``.txt`` beside each tells
in a diff what became different.
"""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.replay.golden import EPISODES, FOLDER, TOLERANCES, differences, engaged, over_a_link, record, story

from syvla.apps.replay_verify import configuration
from syvla.config import RunConfig
from syvla.drivers.recorded import RecordedArm
from syvla.hosts.repeat import Repeated, RepeatHost, repeat_together
from syvla.messages import ARMS, ActionChunk, ArmName, ArmState, JointCommand
from syvla.policies import policy_folder
from syvla.protocols import Received
from syvla.recording.mcap_read import Recording
from syvla.recording.stepped import Stepped, received, steps_of
from syvla.rig import replayed_stage

MOVED_RAD, COMMANDS = 0.2, 150


@pytest.fixture(params=sorted(EPISODES))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Recording:
    """One episode, recorded anew if that was asked for."""
    name = request.param
    if request.config.getoption("--update-golden"):
        FOLDER.mkdir(exist_ok=True)
        shutil.move(record(name, tmp_path), FOLDER / f"{name}.mcap")
        (FOLDER / f"{name}.txt").write_text("\n".join(story(Recording(FOLDER / f"{name}.mcap"))) + "\n")
    return Recording(FOLDER / f"{name}.mcap")


def repeated(recording: Recording, intents: list[Received] | None = None) -> list[Repeated]:
    """Robot and expert run again, each on what the other says now, and on ``intents`` instead of the recorded ones."""
    run = configuration(recording)
    run = msgspec.structs.replace(run, policy_name=str(policy_folder(run.policy_name)))
    arms: dict[ArmName, RecordedArm] = {arm: RecordedArm(arm) for arm in ARMS}

    def show(step: Stepped) -> None:
        for each in step.sent:
            if isinstance(each.message, ArmState):
                arms[each.message.arm].show(each.message, step.now_ns)

    hosts = [host(recording, run, name, arms, show) for name in ("robot", "expert")]
    for each in intents or []:
        hosts[1].instead[each.header] = each
    return list(repeat_together(hosts))


def host(recording: Recording, run: RunConfig, name: str, arms: dict[ArmName, RecordedArm], show: object) -> RepeatHost:
    stage = replayed_stage(name, run, arms)
    return RepeatHost(stage, steps_of(recording, name, stage.reads, stage.writes), show)  # type: ignore[arg-type]


def test_the_golden_episode_comes_out_as_it_was(golden: Recording) -> None:
    commands, moved_rad = engaged(golden)
    assert commands > COMMANDS, "motion was enabled, and the policy commanded"
    assert moved_rad > MOVED_RAD
    intents = [received(raw) for raw in golden.records({"intent"})]
    assert len(intents) > 3
    steps = repeated(golden, over_a_link(intents))
    found = [line for each in steps for line in differences(each)]
    assert not found, "\n".join([f"{len(found)} differences:", *found[:20]])
    sent = [each.message for step in steps for each in step.sent]
    assert sum(isinstance(message, JointCommand) for message in sent) > 400
    assert sum(isinstance(message, ActionChunk) for message in sent) > 30


def test_the_story_is_that_of_the_recording(golden: Recording) -> None:
    assert (golden.path.with_suffix(".txt")).read_text().splitlines() == story(golden)


def test_a_difference_beyond_a_tolerance_is_told_with_both_values(golden: Recording) -> None:
    """The comparison can fail: a joint of one command, a chunk's row, a count, a message more."""
    if golden.path.stem != "policy":
        pytest.skip("one is enough")
    steps = repeated(golden)
    (step,) = [s for s in steps if any(isinstance(r.message, JointCommand) for r in s.sent)][300:301]
    place = next(k for k, r in enumerate(step.sent) if isinstance(r.message, JointCommand))
    command = step.sent[place].message
    assert isinstance(command, JointCommand)
    tolerance = TOLERANCES[JointCommand, "position_rad"]

    def changed(by_rad: float) -> list[str]:
        position = np.array(command.position_rad)
        position[2] += by_rad
        other = msgspec.structs.replace(command, position_rad=position)
        sent = [*step.sent]
        sent[place] = sent[place]._replace(message=other)
        return list(differences(step._replace(sent=sent)))

    assert changed(0.5 * tolerance) == []
    (line,) = changed(1.5 * tolerance)
    assert "command.position_rad[2] (of 1)" in line
    assert "->" in line
    assert "sent" in next(differences(step._replace(sent=step.sent[:place])))


def test_the_acts_of_a_person_and_the_hold_of_a_slow_planner_are_in_them() -> None:
    told = {name: (FOLDER / f"{name}.txt").read_text() for name in EPISODES}
    assert " s  override teleop" in told["person"]
    assert " s  hold hold" in told["person"]
    assert "operator_hold" in told["person"]
    assert told["slow_planner"].count("intent_stale") >= 3
    assert " s  hold" not in told["policy"]
