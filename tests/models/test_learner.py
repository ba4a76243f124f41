"""What one training step learns: which loss reaches which weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.runs import RIG, config_of, run

from syvla_models.planner import SyvlaPlanner
from syvla_models.train.build import build_stage
from syvla_models.train.config import LossConfig, OptimiserConfig
from syvla_models.train.learner import build_learner, draw_noise
from syvla_models.train.reuse import IntentBatch


def test_an_intent_costs_what_its_row_did(data: Path, pretrained: Path) -> None:
    """What the expert learns from what was read before is what it would learn if the planner read it now."""
    loss = LossConfig(hand=1.0, decoupling=False, grounding=0.0)
    config = config_of(data, init=str(pretrained / "checkpoint"), loss=loss, bfloat16=False)
    stage = build_stage(config, RIG)
    learner = build_learner(config, stage).train()
    batch = stage.batches(config)(0)
    assert batch.robot is not None
    noise = draw_noise(batch, 0, 0)
    intents = IntentBatch(learner.states(batch)[batch.robot.rows], batch.robot)
    expert = learner.expert
    assert expert is not None
    begin = copy.deepcopy(expert.state_dict())
    found = []
    for one in (batch, intents):
        expert.load_state_dict(begin)  # its statistics go on with every batch
        expert.zero_grad()
        losses = learner(one, noise)
        losses.total.backward()
        found.append((losses.action, [p.grad for p in expert.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1])


def test_decoupling_masks_some_states_and_only_in_training(data: Path, pretrained: Path) -> None:
    config = config_of(
        data, init=str(pretrained / "checkpoint"), loss=LossConfig(decoupling_percentile=40.0), bfloat16=False
    )
    stage = build_stage(config, RIG)
    learner = build_learner(config, stage)
    batch = stage.batches(config)(0)
    noise = draw_noise(batch, 0, 0)
    masked = learner.train()(batch, noise).masked
    assert 0.2 < float(masked) < 0.6
    assert float(learner.eval()(batch, noise).masked) == 0.0


@pytest.mark.parametrize("samples", [0, 1])
def test_a_decoupled_step_reads_once_and_acts_twice(
    data: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    """Of the second time with as few chunks as ``decoupling_samples`` says."""
    found: dict[bool, tuple[int, int, list[int]]] = {}
    for decoupling in (False, True):
        loss = LossConfig(decoupling=decoupling, decoupling_samples=samples)
        config = config_of(data, init=str(pretrained / "checkpoint"), loss=loss, bfloat16=False)
        stage = build_stage(config, RIG)
        learner = build_learner(config, stage).train()
        batch = stage.batches(config)(0)
        assert learner.expert is not None
        assert batch.robot is not None
        rows, chunks = batch.robot.actions.shape[:2]
        reads: list[int] = []
        sees: list[int] = []
        acts: list[int] = []
        learner.planner.vlm.model.language_model.register_forward_hook(lambda *_, reads=reads: reads.append(1))
        learner.planner.vlm.model.visual.register_forward_hook(lambda *_, sees=sees: sees.append(1))
        denoise = learner.expert.denoise

        def counted(x: torch.Tensor, *rest: Any, acts: list[int] = acts, denoise: Any = denoise) -> torch.Tensor:
            acts.append(len(x))
            out: torch.Tensor = denoise(x, *rest)
            return out

        monkeypatch.setattr(learner.expert, "denoise", counted)
        learner(batch, draw_noise(batch, 0, 0)).total.backward()
        found[decoupling] = len(reads), len(sees), acts
    assert chunks > 1
    assert found[False] == (1, 1, [rows * chunks])
    assert found[True] == (1, 1, [rows * (samples or chunks), rows * chunks])


def test_every_loss_reaches_the_planner_in_one_backward(data: Path, pretrained: Path) -> None:
    """Gradients of the weighted sum are the weighted sum of each loss's own gradients."""
    gradients = {}
    parts = ("text", "action", "grounding", "seen", "asked", "gaze")
    for name in (*parts, "all"):
        weights: dict[str, Any] = {part: float(name in (part, "all")) for part in parts}
        config = config_of(
            data,
            init=str(pretrained / "checkpoint"),
            loss=LossConfig(**weights, decoupling=False),
            bfloat16=False,
        )
        stage = build_stage(config, RIG)
        learner = build_learner(config, stage).train()
        batch = stage.batches(config)(0)
        learner(batch, draw_noise(batch, 0, 0)).total.backward()
        gradient = learner.planner.vlm.model.visual.blocks[0].attn.qkv.weight.grad
        assert gradient is not None
        assert gradient.abs().max() > 0.0, name
        gradients[name] = gradient
    together = torch.stack([gradients[part] for part in parts]).sum(0)
    torch.testing.assert_close(gradients["all"], together, rtol=1e-3, atol=1e-5)


def test_looking_alone_teaches_the_vision_tower_alone(data: Path, tmp_path: Path) -> None:
    silent = LossConfig(text=0.0, action=0.0, grounding=0.0, asked=0.0, gaze=0.0)
    config = config_of(data, "see", loss=silent, optimiser=OptimiserConfig(ema_decay=0.0, weight_decay=0.0))
    before = dict(build_stage(config, RIG).policy.planner.named_parameters())
    run(config, tmp_path / "run")
    after = dict(SyvlaPlanner.from_pretrained(tmp_path / "run" / "checkpoint").named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("visual" in name for name in changed)
    assert all("visual" in name or "embed_tokens" in name for name in changed), "names are the words' own embeddings"
