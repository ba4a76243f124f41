"""The learned policy in the loop, with random weights."""

from pathlib import Path

import numpy as np
from tests.models.policies import MS

from syvla.apps.director import Director, Episode
from syvla.apps.evaluate import run_lockstep
from syvla.messages import ActionChunk, Intent
from syvla.policies import policy_cameras, policy_model_id
from syvla.rig import build_stage, lockstep_host
from syvla.runs import RunFolder, lockstep_run
from syvla_models.spec import load_spec


def test_it_runs_in_lockstep_with_only_the_cameras_it_looks_at_and_twice_the_same(folder: Path) -> None:
    run = lockstep_run("twin", 0.3, 0.03, str(folder))
    assert policy_cameras(run) == ("cam_high",)
    assert policy_model_id(run) == load_spec(folder).model_id
    found = []
    for _ in range(2):
        host = lockstep_host(run, [Director([Episode("snack_loading", "id", 0, "n")])])
        host.run_until(3_000 * MS)
        chunk, made = host.message("chunk"), host.message("intent")
        assert isinstance(chunk, ActionChunk)
        assert isinstance(made, Intent)
        assert made.model_id == policy_model_id(run)
        assert "camera/cam_left_wrist" not in host.latest
        assert host.latest["intent"].header.sequence >= 3, "one thought after the other"
        found.append((chunk.position_rad, made.feature_query_states, made.chain_of_thought))
        host.stop()
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_at_real_time_too_the_twin_draws_only_what_is_looked_at(folder: Path, tmp_path: Path) -> None:
    """Two wrist cameras that nobody looked at took a sixth of a core from two systems that had to share two."""
    run_folder = RunFolder.create(tmp_path, "test")
    for policy, count in ((str(folder), 1), ("reference", 3)):
        stage = build_stage("cameras", lockstep_run("twin", 0.0, 0.0, policy), run_folder)
        assert sum(topic.startswith("camera/") for topic in stage.writes) == count
        stage.close()


def test_random_weights_solve_nothing_and_nothing_breaks(folder: Path) -> None:
    outcome, _ = run_lockstep(
        lockstep_run("twin", 0.3, 0.03, str(folder)), Episode("snack_loading", "id", 0, "n", limit_s=3.0)
    )
    assert outcome.ran
    assert not outcome.success
