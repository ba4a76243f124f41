"""What the page calls to be looked at, and what it does not: arms at rest by intent, words of several processes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.report.conftest import MS, T0, S, Script, record, run_config

from syvla import messages as m
from syvla.config import RemotePlannerConfig, RunConfig
from syvla.recording.mcap_read import Recording
from syvla.report.findings import findings
from syvla.report.view_data import read

QUIET_S = (1, 5)  # in which nothing is commanded


def titles(folder: Path, script: Script, run: RunConfig | None = None) -> list[str]:
    """What is found in the recording."""
    script.send(T0, "episode", m.EpisodeControl(action="start", name="e", issued_ns=T0))
    record(folder, script, run or run_config()).close()
    shown = read(Recording(folder / "e.mcap"), 0.0, 600.0)
    return [found.title for found in findings(shown.episode, shown.heard)]


def send_safety(script: Script, at_ns: int, mode: m.Mode) -> None:
    state = m.SafetyState(
        stamp_ns=at_ns, mode=mode, source=m.Source.NONE, reasons=(), limited_joints=0, clamped_count=0,
        refused_count=0, arm_distance_m=0.2,
    )  # fmt: skip
    script.send(at_ns, "safety", state)


def commanded(script: Script, resting: m.Mode, from_s: float) -> None:
    """Six seconds with a pause, in which the robot says from ``from_s`` on that it is in the mode ``resting``."""
    for i, at_ns in enumerate(range(T0, T0 + 6 * S, 5 * MS)):
        quiet = QUIET_S[0] * S <= at_ns - T0 < QUIET_S[1] * S
        if not quiet:
            command = m.JointCommand(
                command_id=i, commanded_ns=at_ns, position_rad=np.full(12, i * 1e-3), gripper_width_m=np.zeros(2),
                provenance=m.Provenance(source=m.Source.HOLD), intent_age_s=-1.0, limited_joints=0,
            )  # fmt: skip
            script.send(at_ns, "command", command)
        if i % 10 == 0 and (not quiet or at_ns - T0 >= from_s * S):
            send_safety(script, at_ns, resting if quiet else m.Mode.ENABLED)


@pytest.mark.parametrize(
    ("resting", "from_s", "said"),
    [
        (m.Mode.DISABLED, 1.0, []),
        (m.Mode.ENABLED, 1.0, ["no command for 4005 ms"]),
        (m.Mode.DISABLED, 4.0, ["no command for 3005 ms"]),  # its process died, and came back disabled
    ],
)
def test_arms_without_torque_miss_no_command(tmp_path: Path, resting: m.Mode, from_s: float, said: list[str]) -> None:
    script = Script()
    commanded(script, resting, from_s)
    assert titles(tmp_path, script) == said


def resent(script: Script, epoch: int, sequence: int) -> None:
    """What was sent last, as another process sends it."""
    last = script.received[-1]
    script.received[-1] = last._replace(header=last.header._replace(epoch=epoch, sequence=sequence))


@pytest.mark.parametrize("restarted", [False, True])
def test_an_event_is_anybodys_word_but_a_topic_with_a_rate_has_one_sender(tmp_path: Path, restarted: bool) -> None:
    script = Script()
    commanded(script, m.Mode.DISABLED, 1.0)
    for number, epoch in enumerate((5, 6)):
        hold = m.OperatorCommand(command_id=1, action="hold", issued_ns=T0 + (2 + number) * S)
        script.send(hold.issued_ns, "operator", hold)
        resent(script, epoch, 0)
    if restarted:
        send_safety(script, T0 + 6 * S - MS, m.Mode.ENABLED)
        resent(script, 9, 0)
    assert titles(tmp_path, script) == (["safety: its sender was started anew"] if restarted else [])


@pytest.mark.parametrize("remote", [True, False])
def test_the_words_of_a_planner_elsewhere_may_overtake_each_other(tmp_path: Path, remote: bool) -> None:
    script, run = Script(), run_config()
    commanded(script, m.Mode.DISABLED, 1.0)
    for number in (0, 3):
        thought = m.Thought(task_id=1, intent_id=0, observation_ns=T0, text="a" * (1 + number), complete=False)
        script.send(T0 + S + number * MS, "thought", thought)
        resent(script, 1, number)
    if remote:
        run = msgspec.structs.replace(run, remote_planner=RemotePlannerConfig(address="tcp://host:7000"))
    assert titles(tmp_path, script, run) == ([] if remote else ["thought: 2 messages not in the recording"])
