"""What comes back from another format can be trained on and reported on."""

from pathlib import Path

import msgspec
import numpy as np
from tests.convert.made import INSTRUCTION, record, run

from syvla.config import RunConfig
from syvla.messages import CAMERAS
from syvla.report.episode import load
from syvla.runs import load_rig
from syvla_models.train.episode import read_episode


def test_training_learns_from_the_person_and_the_report_tells_the_intervention(tmp_path: Path) -> None:
    run([record(tmp_path / "one.mcap")], tmp_path / "set", "lerobot")
    run([tmp_path / "set"], tmp_path / "back", "mcap")
    episode = read_episode(tmp_path / "back/one.mcap", CAMERAS, max_image_hz=10.0, thoughts=False)
    assert {sight.instruction for sight in episode.sights} == {INSTRUCTION}
    assert len(episode.sights) > 10
    assert episode.imitable(2_000_000_000, 2_100_000_000)  # the person's
    assert not episode.imitable(1_300_000_000, 1_350_000_000)  # what was corrected
    (intervention,) = load(tmp_path / "back/one.mcap").interventions
    assert abs((intervention.end_ns - intervention.start_ns) / 1e9 - 0.4) < 0.05


def test_a_rig_that_is_told_goes_into_recordings_from_elsewhere(tmp_path: Path) -> None:
    rig = load_rig("cobot_magic")
    text = msgspec.json.encode(RunConfig(rig=rig, policy_name="unknown")).decode()
    source = record(tmp_path / "one.mcap")
    run([source], tmp_path / "set", "aloha")
    run([tmp_path / "set"], tmp_path / "own", "mcap", run_json=text)
    episode = load(tmp_path / "own/one.mcap")
    assert episode.config is None  # its own, which is not of this version, and not the one that was told
    assert set(np.diff(episode.commands.at_ns) // 10**6) == {33}
