"""The checkpoints that ship: small, without pickle, as their hashes say, and able to do some of what they are for."""

import hashlib
from pathlib import Path

import pytest

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.messages import SimReset
from syvla.policies import shipped_checkpoint
from syvla.runs import load_rig, lockstep_run
from syvla.sim.cameras import TwinCameras
from syvla.sim.tables import RandomTable
from syvla.sim.tasks import ALL_TASKS
from syvla.sim.world import TwinWorld
from syvla_models.backends import choice
from syvla_models.backends.exported import EXPORT_FILE, FILES, FOLDER, load_export
from syvla_models.images import view_of
from syvla_models.planner import SyvlaPlanner
from syvla_models.prompt import told
from syvla_models.spec import load_spec

SHIPPED = sorted(path.parent for path in shipped_checkpoint().parent.glob("*/syvla.json"))
WEIGHTS = {"model.safetensors", "planner.safetensors", "expert.safetensors"}
TEXTS = {"syvla.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
FOR_TRAINING = {"heads.safetensors"}
EXPORT = {f"{FOLDER}/{name}" for name in (EXPORT_FILE, *FILES)}


@pytest.fixture(params=SHIPPED, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_one_ships() -> None:
    assert SHIPPED


def test_it_is_small_and_nothing_in_it_is_executable(folder: Path) -> None:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert WEIGHTS | TEXTS | EXPORT <= names <= WEIGHTS | TEXTS | EXPORT | FOR_TRAINING
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 60e6


def test_it_runs_without_torch(folder: Path) -> None:
    """What was exported is of these weights, whole, and a CPU's backend is accepted."""
    export = load_export(folder, load_spec(folder))
    assert choice.choose(folder, choice.AUTO) in ("onnxruntime", "openvino")
    assert export.tried["onnxruntime"].accepted


def test_its_hashes_are_those_of_its_files_and_its_card_names_it(folder: Path) -> None:
    spec = load_spec(folder)
    files = {path.name for path in folder.iterdir() if path.is_file()} - {"syvla.json", "README.md"}
    assert spec.sha256 == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    assert spec.model_id in (folder / "README.md").read_text()


@pytest.mark.parametrize("split", ["id", "ood_wording"])
def test_its_thoughts_about_unseen_tables_are_mostly_right(folder: Path, split: str) -> None:
    """Word for word what a perfect planner thinks of the first picture, in at least half of twelve episodes.

    A planner that had read fifteen sentences was right of none that was worded otherwise.
    """
    planner = SyvlaPlanner.from_pretrained(folder)
    (view,) = planner.spec.views
    cameras = TwinCameras(load_rig("twin"), ALL_TASKS, (view.camera,))
    world = TwinWorld(load_rig("twin"), ALL_TASKS)
    right = 0
    for seed in range(500, 512):
        world.reset(SimReset(reset_id=0, task="snack_loading", split=split, seed=seed))
        cameras.follow(world.state(0))
        (frame,) = cameras.read(0)
        episode = ALL_TASKS["snack_loading"].reset(seed, split)
        text = told(planner.spec, episode.instruction, RandomTable(world.state(0), world.table()).widths_m)
        *_, made = planner.think([view_of(frame.rgb, view)], text, reuse=False)
        right += made[0] == episode.chain_of_thought(world.table())
    cameras.close()
    world.close()
    assert right >= 6


def test_it_loads_something_in_the_loop(folder: Path) -> None:
    """At least one thing in two episodes of 30 s, with a planner that takes 300 ms."""
    run = lockstep_run("twin", 0.3, 0.03, str(folder))
    episodes = [Episode("snack_loading", "id", seed, f"shipped-{seed}", 30.0) for seed in (2, 3)]
    assert max(run_lockstep(run, episode)[0].progress for episode in episodes) > 0.0
