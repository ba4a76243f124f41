"""What a training stage begins from."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models.runs import MODEL, RIG, config_of

from syvla.config import ArmConfig
from syvla.control.kinematics import Base, forward_tcp
from syvla.errors import ConfigError
from syvla_models import checkpoint
from syvla_models.checkpoint import load_expert
from syvla_models.planner import SyvlaPlanner
from syvla_models.spec import SPEC_FILE, ExpertConfig, load_spec, save_spec
from syvla_models.train.build import build_stage
from syvla_models.train.config import ActionConfig
from syvla_models.train.learner import build_learner


def test_a_fresh_expert_knows_the_states_and_the_head_of_the_stage_before(
    data: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Before its first step; one that has been trained goes on as it is."""
    smaller = msgspec.structs.replace(MODEL, expert=ExpertConfig(width=32, depth=1, heads=2, horizon=20))
    config = config_of(data, init=str(pretrained / "checkpoint"), model=smaller, bfloat16=False)
    stage = build_stage(config, RIG)
    learner = build_learner(config, stage)
    expert = learner.expert
    assert expert is not None
    first = expert.adapter[0]
    assert isinstance(first, torch.nn.Linear)
    fresh = first.weight.clone()
    learner.prepare([stage.batches(config)(step) for step in range(4)], 0)
    known = first.weight.clone()
    assert float(expert.standard.observed) == 4.0
    assert torch.linalg.matrix_rank(known - 0.2 * fresh, rtol=1e-3) <= len(learner.grounding.bias) < len(known)
    learner.prepare([stage.batches(config)(9)], 0)
    assert torch.equal(first.weight, known)
    assert float(expert.standard.observed) == 4.0


def test_what_the_grounding_head_says_is_what_an_expert_aims_at(data: Path, pretrained: Path) -> None:
    """A place in the world is no distance from a hand that is there, whichever way the arm's base stands."""
    turned = msgspec.structs.replace(RIG, left=ArmConfig(base_position_m=(0.1, 0.3, 0.02), base_yaw_rad=0.7))
    new = msgspec.structs.replace(MODEL, expert=msgspec.structs.replace(MODEL.expert, width=32))  # placed afresh
    config = config_of(data, init=str(pretrained / "checkpoint"), model=new)
    stage = build_stage(config, turned)
    learner = build_learner(config, stage)
    assert learner.expert is not None
    aim = learner.expert.aim
    assert aim is not None
    assert aim.read is learner.grounding
    head = load_file(pretrained / "checkpoint/heads.safetensors")
    assert torch.equal(aim.read.weight, head["grounding.weight"])
    measured = np.array([0.3, 1.2, -1.0, 0.1, 0.9, -0.2, 0.05, -0.4, 1.0, -0.8, 0.0, 1.0, 0.3, 0.05])
    places_m = [
        Base.of(arm).to_world(*forward_tcp(measured[first : first + 6]))[0]
        for arm, first in ((turned.left, 0), (turned.right, 7))
    ]
    places_m[1] += (0.0, 0.01, 0.0)
    numbers = torch.tensor([[1.0, *(places_m[0] / 0.1), 1.0, *(places_m[1] / 0.1)]], dtype=torch.float32)
    off = aim(numbers, torch.from_numpy(stage.policy.space.state(measured))[None])[0, 8:14].detach().numpy()
    scale_m = np.array(stage.policy.spec.action.state_scale).reshape(2, 16)[:, :3]
    np.testing.assert_allclose(off.reshape(2, 3) * scale_m, [[0.0, 0.0, 0.0], [0.0, 0.01, 0.0]], atol=1e-5)
    new = msgspec.structs.replace(new, expert=msgspec.structs.replace(new.expert, aimed_in_hand=True))
    stage = build_stage(config_of(data, init=str(pretrained / "checkpoint"), model=new), turned)
    assert stage.policy.expert is not None
    in_hand = stage.policy.expert.aim
    assert in_hand is not None
    off = in_hand(numbers, torch.from_numpy(stage.policy.space.state(measured))[None])[0, 8:14].unflatten(0, (2, 3))
    np.testing.assert_allclose(off.norm(dim=-1).detach().numpy(), [0.0, 0.1], atol=1e-4)


def test_a_stage_goes_on_with_planner_expert_and_normalisation_of_the_one_before(
    data: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = config_of(data, init=str(pretrained / "checkpoint"), action=ActionConfig(euler_steps=3))
    stage = build_stage(config, RIG)
    spec = load_spec(pretrained / "checkpoint")
    assert stage.policy.spec.action.offset == spec.action.offset
    assert stage.policy.spec.action.euler_steps == 3
    before = load_expert(pretrained / "checkpoint")[0]
    assert torch.equal(stage.policy.expert.action_out.weight, before.action_out.weight)
    assert before.action_out.weight.abs().max() > 0.0
    head = load_file(pretrained / "checkpoint/heads.safetensors")
    assert torch.equal(build_learner(config, stage).grounding.weight, head["grounding.weight"])
    copied = shutil.copytree(pretrained / "checkpoint", tmp_path / "copied")
    config = msgspec.structs.replace(config, init=str(copied))
    (copied / "heads.safetensors").write_bytes(b"cut")
    with pytest.raises(ConfigError, match=r"heads\.safetensors"):
        build_learner(config, stage)
    save_spec(copied, spec)
    with pytest.raises(ConfigError, match=r"heads\.safetensors: "):
        build_learner(config, stage)
    (copied / "heads.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"heads\.safetensors is missing"):
        build_learner(config, stage)
    shutil.copy(pretrained / "checkpoint/heads.safetensors", copied)
    said = json.loads((copied / SPEC_FILE).read_text())
    del said["sha256"]["heads.safetensors"]
    (copied / SPEC_FILE).write_text(json.dumps(said))
    with pytest.raises(ConfigError, match=r"no entry for heads\.safetensors"):
        build_learner(config, stage)


def test_when_a_planner_thinks_anew_is_chosen_or_as_it_was(data: Path, pretrained: Path, tmp_path: Path) -> None:
    begin = shutil.copytree(pretrained / "checkpoint", tmp_path / "begin")
    spec = load_spec(begin)
    save_spec(begin, msgspec.structs.replace(spec, planner=msgspec.structs.replace(spec.planner, think="on_change")))
    for chosen, expected in ((None, ("on_change", 1.0)), ("every_s", ("every_s", 0.5))):
        model = msgspec.structs.replace(MODEL, think=chosen, think_every_s=0.5)
        policy = build_stage(config_of(data, init=str(begin), model=model), RIG).policy
        assert (policy.spec.planner.think, policy.spec.planner.think_every_s) == expected
        checkpoint.save(tmp_path / "saved", policy.planner, policy.expert, policy.spec)
        assert load_spec(tmp_path / "saved").planner == policy.spec.planner


@pytest.mark.parametrize(("own", "expected"), [("bfloat16", "bfloat16"), ("float32", "float32"), (None, None)])
def test_a_qwen_thinks_on_a_gpu_in_the_type_that_it_came_in(
    data: Path, pretrained: Path, tmp_path: Path, own: str | None, expected: str | None
) -> None:
    """It is trained in float32: one that came in bfloat16 would have thought with twice the bytes ever after."""
    bare = tmp_path / "bare"
    shutil.copytree(pretrained / "checkpoint", bare, ignore=shutil.ignore_patterns("syvla.json"))
    config = json.loads((bare / "config.json").read_bytes())
    (bare / "config.json").write_text(json.dumps({**config, "dtype": own}))
    policy = build_stage(config_of(data, init=str(bare)), RIG).policy
    assert policy.spec.planner.gpu_dtype == expected
    assert policy.planner.queries.dtype == torch.float32
    checkpoint.save(tmp_path / "saved", policy.planner, policy.expert, policy.spec)
    assert build_stage(config_of(data, init=str(tmp_path / "saved")), RIG).policy.spec.planner.gpu_dtype == expected


def test_a_fresh_expert_can_be_asked_for(data: Path, pretrained: Path) -> None:
    """Ablations train one from nothing, behind a planner that is there."""
    fresh = msgspec.structs.replace(MODEL, fresh_expert=True)
    policy = build_stage(config_of(data, init=str(pretrained / "checkpoint"), model=fresh), RIG).policy
    assert not policy.expert.action_out.weight.any()
    assert torch.equal(policy.planner.queries, SyvlaPlanner.from_pretrained(pretrained / "checkpoint").queries)


def test_another_action_space_begins_with_a_fresh_expert(data: Path, pretrained: Path) -> None:
    config = config_of(
        data,
        init=str(pretrained / "checkpoint"),
        action=ActionConfig(space="end_effector", statistics_samples=32),
    )
    policy = build_stage(config, RIG).policy
    assert policy.spec.action.space == "end_effector"
    assert not policy.expert.action_out.weight.any()
    assert (np.array(policy.spec.action.scale) != 1.0).any()
