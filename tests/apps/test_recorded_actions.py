"""Recorded actions that cannot be played are refused before anything starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from syvla.apps.replay_actions import PlaybackDirector, recorded_table
from syvla.config import RigConfig
from syvla.errors import ConfigError, RecordingError
from syvla.hosts.lockstep import LockstepHost
from syvla.messages import ARMS, JointCommand, Source
from syvla.recording.mcap_log import McapLog
from syvla.recording.mcap_read import Recording
from syvla.rig import TWIN_PERIOD_NS, robot_stage, twin_world
from syvla.runs import load_rig, lockstep_run
from syvla.sim.twin_arm import TwinArm
from syvla.stages.playback import PlaybackStage
from syvla.stages.recorded_actions import load_actions
from syvla.stages.twin import TwinStage
from syvla.transport.codec import encode_body, pack_record

SLICE_NS = 50_000_000


def changed(path: Path, folder: Path, change: Callable[[JointCommand], JointCommand], **rig: Any) -> Recording:
    """A copy of a recording with other commands, or of another rig."""
    recording = Recording(path)
    run = msgspec.json.decode(recording.attachments["run.json"])
    run["rig"].update(rig)
    log = McapLog(folder / "copy.mcap", recording.run, {"run.json": msgspec.json.encode(run).decode()})
    for recorded in recording.messages({"command"}):
        assert isinstance(recorded.message, JointCommand)
        message = change(recorded.message)
        envelope = msgspec.msgpack.encode((1, *recorded.header, 0))
        log.write_record(
            "command", JointCommand, pack_record([envelope, *encode_body(message)]),
            recorded.log_time_ns, recorded.header.sent_ns, recorded.header.sequence,
        )  # fmt: skip
    return Recording(log.close({"outcome": "success"}))


def in_degrees(command: JointCommand) -> JointCommand:
    return msgspec.structs.replace(command, position_rad=np.degrees(command.position_rad))


def in_millimetres(command: JointCommand) -> JointCommand:
    return msgspec.structs.replace(command, gripper_width_m=1e3 * command.gripper_width_m)


def jumping(command: JointCommand) -> JointCommand:
    position = np.array(command.position_rad)
    position[0] += 0.1 * (command.command_id % 2)
    return msgspec.structs.replace(command, position_rad=position)


def backwards(command: JointCommand) -> JointCommand:
    return msgspec.structs.replace(command, commanded_ns=10**12 - command.commanded_ns)


def with_a_gap(command: JointCommand) -> JointCommand:
    return msgspec.structs.replace(command, commanded_ns=command.commanded_ns + 10**9 * (command.command_id > 900))


@pytest.fixture
def rig() -> RigConfig:
    return load_rig("twin")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_degrees, "or in other units"),
        (in_millimetres, "gripper is commanded to"),
        (jumping, "left joint 1 is commanded at"),
        (backwards, "not in the order of their stamps"),
        (with_a_gap, "no command for"),
    ],
)
def test_commands_that_cannot_be_this_robots_are_refused(
    episode: Path, tmp_path: Path, rig: RigConfig, change: Callable[[JointCommand], JointCommand], said: str
) -> None:
    with pytest.raises(RecordingError, match=said):
        load_actions(changed(episode, tmp_path, change), rig)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"name": "bench2"}, "is of rig 'bench2'"),
        ({"kind": "cobot_magic"}, "cobot_magic"),
        ({"left": {"base_position_m": [0.5, 0.0, 0.0]}}, "left.base_position_m was"),
    ],
)
def test_another_robots_actions_are_refused(
    episode: Path, tmp_path: Path, rig: RigConfig, other: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_actions(changed(episode, tmp_path, lambda command: command, **other), rig)


def test_a_command_that_is_not_finite_cannot_even_be_read(episode: Path, tmp_path: Path, rig: RigConfig) -> None:
    recording = Recording(episode)
    log = McapLog(tmp_path / "nan.mcap", recording.run, recording.attachments)
    for raw in recording.records({"command"}):
        data = raw.data
        if raw.sequence == 500:
            (message,) = (r.message for r in recording.messages({"command"}) if r.header.sequence == 500)
            assert isinstance(message, JointCommand)
            value = np.float64(message.position_rad[1]).tobytes()
            data = data.replace(value, np.float64("nan").tobytes(), 1)
            assert data != raw.data
        log.write_record(raw.topic, raw.kind, data, raw.log_time_ns, raw.sent_ns, raw.sequence)
    with pytest.raises(RecordingError, match="position_rad must be finite"):
        load_actions(Recording(log.close({"outcome": "success"})), rig)


def test_a_start_far_from_where_the_arms_stand_is_refused(episode: Path, tmp_path: Path) -> None:
    far = 0.7

    def away(command: JointCommand) -> JointCommand:
        position = np.array(command.position_rad)
        position[0] += far
        return msgspec.structs.replace(command, position_rad=position)

    recording = changed(episode, tmp_path, away)
    run = lockstep_run("twin", 0.0, 0.0, "reference")
    world = twin_world(run)
    director = PlaybackDirector("again", recorded_table(Recording(episode)), 1.0)
    host = LockstepHost(
        [
            TwinStage(world, (), TWIN_PERIOD_NS),
            robot_stage(run, {arm: TwinArm(arm, world.plant(arm)) for arm in ARMS}),
            PlaybackStage(load_actions(recording, run.rig), run.rig, run.policy, None),
            director,
        ]
    )
    while not director.outcome and host.now_ns < 10e9:
        host.run_until(host.now_ns + SLICE_NS)
    assert "left joint 1 stands 0.70 rad from where the actions begin" in director.outcome
    command = host.message("command")
    assert isinstance(command, JointCommand)
    assert command.provenance.source is Source.HOLD
    host.stop()
