"""The checkpoint that ships: small, without pickle, as its hashes say, and able to do what it was made for."""

import hashlib

import numpy as np
import pytest
import torch

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.apps.scenes import visited_tables
from syvla.rig import load_rig, lockstep_run, shipped_checkpoint
from syvla.sim.cameras import TwinCameras
from syvla.sim.tasks import ALL_TASKS
from syvla_models.checkpoint import load_spec
from syvla_models.images import view_of
from syvla_models.planner import SyvlaPlanner

FOLDER = shipped_checkpoint()
WEIGHTS = {"model.safetensors", "planner.safetensors", "expert.safetensors"}
ALLOWED = {*WEIGHTS, "syvla.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


def test_it_is_small_and_nothing_in_it_is_executable() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names - {"README.md"} <= ALLOWED
    assert names >= {*WEIGHTS, "README.md"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 60e6


def test_its_hashes_are_those_of_its_files_and_its_card_names_it() -> None:
    spec = load_spec(FOLDER)
    assert spec.sha256 == {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in WEIGHTS}
    assert spec.model_id in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("task", ["snack_loading", "math_packaging"])
def test_its_thoughts_about_unseen_tables_are_mostly_right(task: str) -> None:
    """Word for word what a perfect planner thinks of the first picture, in at least half of twelve episodes."""
    torch.set_num_threads(1)
    planner = SyvlaPlanner.from_pretrained(FOLDER)
    (view,) = planner.spec.views
    cameras = TwinCameras(load_rig("twin"), ALL_TASKS, (view.camera,))
    right = 0
    for seed in range(500, 512):
        shown = next(visited_tables(lockstep_run("twin", 0.3, 0.03, "reference"), (task,), seed))
        cameras.follow(shown.state)
        (frame,) = cameras.read(0)
        episode = ALL_TASKS[task].reset(seed, "id")
        *_, (thought, states) = planner.think([view_of(frame.rgb, view)], episode.instruction, reuse=False)
        assert np.isfinite(states.numpy()).all()
        right += thought == episode.chain_of_thought(shown.table)
    cameras.close()
    assert right >= 6


def test_it_loads_something_in_the_loop() -> None:
    """Three episodes, 30 s each, with a planner that takes 300 ms."""
    run = lockstep_run("twin", 0.3, 0.03, str(FOLDER))
    progress = [
        run_lockstep(run, Episode("snack_loading", "id", seed, f"shipped-{seed}", 30.0))[0].progress
        for seed in range(3)
    ]
    assert max(progress) > 0.0
