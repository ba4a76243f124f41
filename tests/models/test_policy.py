"""The learned policy in the loop, with random weights."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.models.policies import MS

from syvla.apps.director import Director, Episode
from syvla.apps.evaluate import run_lockstep
from syvla.messages import ActionChunk, Intent
from syvla.policies import policy_cameras, policy_model_id
from syvla.rig import build_stage, lockstep_host
from syvla.runs import RunFolder, lockstep_run
from syvla_models.planner import SyvlaPlanner, Thinking
from syvla_models.spec import Think, load_spec, save_spec


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


@pytest.mark.parametrize("think", ["always", "every_s"])
def test_a_thought_stands_for_as_long_as_it_is_told_to_and_intents_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, think: Think
) -> None:
    """In four seconds at a thought of 0.3 s: each time, or at 0, 1.5 and 3 s and in between new states only."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    spec = load_spec(copy)
    planner = msgspec.structs.replace(spec.planner, think=think, think_every_s=1.4)
    save_spec(copy, msgspec.structs.replace(spec, planner=planner))
    thoughts: list[str] = []
    whole = SyvlaPlanner.think

    def counted(self: SyvlaPlanner, images: Any, instruction: str, *, reuse: bool = True) -> Iterator[Thinking]:
        thoughts.append(instruction)
        return whole(self, images, instruction, reuse=reuse)

    director = Director([Episode("snack_loading", "id", 0, "n")])
    host = lockstep_host(lockstep_run("twin", 0.3, 0.03, str(copy)), [director])
    monkeypatch.setattr(SyvlaPlanner, "think", counted)
    states: list[Intent] = []
    for at_ms in range(0, 4_000, 100):
        host.run_until(at_ms * MS)
        made = host.message("intent")
        if isinstance(made, Intent) and (not states or made.intent_id != states[-1].intent_id):
            states.append(made)
    host.stop()
    assert len(states) >= 8
    assert all(not np.array_equal(a.feature_query_states, b.feature_query_states) for a, b in pairwise(states))
    assert len(thoughts) >= len(states) if think == "always" else 2 <= len(thoughts) <= 4


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
