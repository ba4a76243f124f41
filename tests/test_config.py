"""Configuration files: typed, with the path of what is wrong, and shipped rigs that load."""

from pathlib import Path

import msgspec
import pytest

from syvla.config import ArmConfig, RigConfig, SafetyLimits, TeleopConfig, load_toml
from syvla.errors import ConfigError
from syvla.runs import load_rig, rig_names
from syvla.topics import STAGES, TOPICS, topic

RIG = 'name = "r"\nkind = "twin"\n[left]\n[right]\n'


def test_shipped_rigs_load() -> None:
    assert {"twin", "cobot_magic"} <= set(rig_names())
    for name in rig_names():
        assert load_rig(name).name == name


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[control]\nrate_hertz = 100\n", "rate_hertz"),
        ("[control]\nrate_hz = 'fast'\n", "$.control.rate_hz"),
        ("[intent]\nstale_policy = 'panic'\n", "stale_policy"),
        ("[safety]\nvelocity_rad_s = [1.0]\n", "$.safety.velocity_rad_s"),
        ("[cameras]\nwidth = 1280\nheight = 720\n", "$.cameras"),
        ("[cameras.serials]\ncam_low = '1'\n", "no camera 'cam_low'; there are cam_high"),
        ("[cameras.serials]\ncam_high = 123\n", "$.cameras.serials"),
        ("[cameras.serials]\ncam_high = ''\n", "serials.cam_high must be a number of its own"),
        ("[cameras.serials]\ncam_high = '1'\ncam_left_wrist = '1'\n", "which is cam_left_wrist's"),
        ("[cameras]\nsource = 'webcam'\n", "$.cameras.source"),
        ("[cameras]\nrate_hz = 5\n", "silent_s must be above the 0.200 s"),
        ("[cameras]\nsilent_s = nan\n", "silent_s"),
        ("[cameras]\ndelay_s = { cam_high = 0.12 }\n", "delay_s.cam_high and the 0.033 s between two frames"),
        ("[cameras]\nfrozen_frames = 1\n", "frozen_frames must be 0 or"),
        ("this is not toml", "line"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(RIG + text)
    with pytest.raises(ConfigError, match=r"rig\.toml") as refusal:
        load_toml(path, RigConfig)
    assert where in str(refusal.value)


def test_only_a_twin_may_render_its_cameras(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(RIG.replace("twin", "cobot_magic") + "[cameras]\nsource = 'render'\n")
    with pytest.raises(ConfigError, match=r"cameras\.source must be realsense"):
        load_toml(path, RigConfig)


def test_an_unknown_rig_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="cobot_magic, twin"):
        load_rig("nonesuch")


def test_every_topic_has_a_writer_among_the_stages_and_an_unknown_one_is_refused() -> None:
    assert all(row.writer in STAGES for row in TOPICS.values())
    with pytest.raises(ConfigError, match="arm/left"):
        topic("arm/middle")


def test_leader_arms_come_in_pairs_and_a_controllers_silence_is_found_before_the_gates() -> None:
    arm = ArmConfig(can_channel="can_leader")
    assert TeleopConfig(leader_left=arm, leader_right=arm).silent_s < SafetyLimits().teleop_stale_s
    for wrong in (
        {"leader_left": arm},
        {"leader_right": arm},
        {"silent_s": 0.2},
        {"dead_zone": -0.1},
        {"dead_zone": 1},
    ):
        with pytest.raises(ValueError, match=r"leader_left|silent_s|dead_zone"):
            TeleopConfig(**wrong)


@pytest.mark.parametrize("arm", ["left", "right"])
def test_a_feedback_that_would_always_be_stale_is_refused_before_anything_moves(arm: str) -> None:
    rig = load_rig("twin")
    late = msgspec.structs.replace(getattr(rig, arm), feedback_delay_s=rig.safety.feedback_stale_s)
    fields = {name: getattr(rig, name) for name in rig.__struct_fields__} | {arm: late}
    with pytest.raises(ValueError, match=rf"{arm}.feedback_delay_s must be below safety.feedback_stale_s, 0.05 s"):
        RigConfig(**fields)
