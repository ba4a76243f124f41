"""The trainer: it learns, it can be stopped at any moment, and its stages go on from each other."""

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from syvla import messages as m
from syvla.config import ArmConfig, RigConfig, RunConfig
from syvla.control.kinematics import Base, forward_tcp
from syvla.errors import ConfigError
from syvla.message import Message
from syvla.protocols import Header
from syvla.recording.images import compress
from syvla.recording.mcap_log import McapLog
from syvla.transport.codec import encode_body
from syvla_models.checkpoint import load_expert, load_spec
from syvla_models.planner import SyvlaPlanner
from syvla_models.spec import CameraView, ExpertConfig
from syvla_models.train.build import build_stage
from syvla_models.train.config import (
    ActionConfig,
    BudgetConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimiserConfig,
    OutputConfig,
    SourceConfig,
    TrainConfig,
)
from syvla_models.train.learner import build_learner, draw_noise
from syvla_models.train.reuse import IntentBatch
from syvla_models.train.trainer import Trainer, train, validate_checkpoint

MS = 1_000_000
RIG = RigConfig(name="test", kind="twin", left=ArmConfig(), right=ArmConfig())
VIEW = CameraView(camera="cam_high", height=32, width=64)
MODEL = ModelConfig(name="test", views=(VIEW,), expert=ExpertConfig(width=48, depth=2, heads=2, horizon=20, aimed=True))


def record(path: Path, direction: float) -> None:
    """Two seconds in which both arms move steadily; the picture is as bright as they are fast."""
    log = McapLog(path, {}, {"run.json": msgspec.json.encode(RunConfig(rig=RIG)).decode()})
    rgb = np.full((32, 64, 3), 128 + round(100 * direction), np.uint8)
    every: list[tuple[str, Message]] = [("task", m.Task(task_id=1, instruction="move the arms", issued_ns=MS))]
    for ms in range(10, 2000, 10):
        q = np.full(6, 0.2 * direction * ms / 1000)
        every.append(
            ("command", m.JointCommand(
                command_id=ms, commanded_ns=ms * MS, position_rad=np.tile(q, 2), gripper_width_m=np.full(2, 0.03),
                provenance=m.Provenance(source=m.Source.POLICY), intent_age_s=0.0, limited_joints=0,
            ))
        )  # fmt: skip
        every += [
            (f"arm/{arm}", m.ArmState(
                arm=arm, measured_ns=ms * MS, position_rad=q, velocity_rad_s=np.zeros(6), effort_nm=np.zeros(6),
                gripper_width_m=0.03, enabled=True,
            ))
            for arm in m.ARMS
        ]  # fmt: skip
    for k, ms in enumerate(range(20, 1900, 100)):
        frame = m.CameraFrame(camera="cam_high", frame_id=k, exposure_ns=ms * MS, rgb=rgb)
        every.append(("camera/cam_high", compress(frame, 95)))
        words = "Both arms move up." if direction > 0 else "Both arms move down."
        states = np.zeros((20, 8), np.float16)
        every.append(
            ("intent", m.Intent(
                intent_id=k, task_id=1, observation_ns=ms * MS, chain_of_thought=words,
                feature_query_states=states, model_id="test",
            ))
        )  # fmt: skip
    for number, (topic, message) in enumerate(every):
        log.write(Header(topic, 0, number, number, 0), type(message), encode_body(message), number)
    log.close({"outcome": "success"})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four demonstrations and twelve pictures with questions."""
    folder = tmp_path_factory.mktemp("data")
    for k in range(4):
        record(folder / f"{k}.mcap", 1.0 if k % 2 else -1.0)
    lines = []
    for k in range(12):
        Image.fromarray(np.full((32, 64, 3), 20 * k, np.uint8)).save(folder / f"{k}.png")
        bright = "bright" if k > 5 else "dark"
        question = {"question": "How bright is it?", "answer": f"It is {bright}.", "point": [0.02 * k, 0.2]}
        things = [{"name": "lamp", "point": [0.02 * k, 0.2], "place": [0.9 if k > 5 else 0.1, 0.5]}]
        line = {"image": f"{k}.png", "camera": "cam_high", "questions": [question], "things": things}
        lines.append(json.dumps(line))
    (folder / "scenes.jsonl").write_text("\n".join(lines))
    return folder


def config_of(folder: Path, stage: Any = "finetune", **changes: Any) -> TrainConfig:
    demos = SourceConfig(name="demos", kind="demonstrations", paths=(str(folder),), weight=0.7)
    scenes = SourceConfig(name="scenes", kind="scenes", paths=(str(folder),), weight=0.3)
    fields: dict[str, Any] = {
        "stage": stage,
        "sources": (scenes,) if stage == "see" else (demos, scenes),
        "budget": BudgetConfig(max_steps=6),
        "threads": 1,
        "model": MODEL,
        "data": DataConfig(batch_size=4, action_samples=2, delay_range_s=(0.0, 0.5), max_prefix=5),
        "action": ActionConfig(euler_steps=2, statistics_samples=64),
        "optimiser": OptimiserConfig(warmup_steps=2, ema_decay=0.9),
        "output": OutputConfig(log_every_steps=1, validation_rows=6),
    }
    return TrainConfig(**{**fields, **changes})


def silent(line: str) -> None:
    pass


def run(config: TrainConfig, out: Path, *, resume: bool = False, say: Callable[[str], None] = silent) -> bool:
    return train(config, RIG, out, resume=resume, say=say)


def stop_at(step: int) -> Callable[[str], None]:
    """Somebody presses Ctrl-C when the line of ``step`` is printed."""

    def say(line: str) -> None:
        if line.startswith(f"step {step} ("):
            os.kill(os.getpid(), signal.SIGINT)

    return say


@pytest.fixture(scope="module")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps of the stage pretrain, from nothing."""
    out = tmp_path_factory.mktemp("pretrained") / "run"
    assert run(config_of(data, "pretrain"), out)
    return out


# ---------------------------------------------------------------- stopping and going on


def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(
    data: Path, pretrained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    config = config_of(data, "pretrain")
    assert not run(config, out, say=stop_at(3)), "the signal ends the run, cleanly"
    assert json.loads((out / "state" / "state.json").read_bytes())["step"] == 3
    assert run(config, out, resume=True)
    whole, resumed = (load_file(folder / "state" / "state.safetensors") for folder in (pretrained, out))
    assert whole.keys() == resumed.keys()
    different = [name for name in whole if not torch.equal(whole[name].nan_to_num(), resumed[name].nan_to_num())]
    assert not different
    assert load_spec(out / "checkpoint").sha256 == load_spec(pretrained / "checkpoint").sha256
    assert numbers(out) == numbers(pretrained)


def test_signal_handlers_are_put_back(data: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(config_of(data, budget=BudgetConfig(max_steps=3)), tmp_path / "run", say=stop_at(1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_longer_budget_goes_on_and_other_settings_are_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = config_of(data, "see", budget=BudgetConfig(max_steps=2))
    run(config, out)
    other = msgspec.structs.replace(config, loss=LossConfig(grounding=1.0))
    with pytest.raises(ConfigError, match="'loss'"):
        run(other, out, resume=True)
    with pytest.raises(ConfigError, match="--resume"):
        run(config, out)
    assert run(msgspec.structs.replace(config, budget=BudgetConfig(max_steps=3)), out, resume=True)
    assert json.loads((out / "state" / "state.json").read_bytes())["step"] == 3


def test_there_must_be_something_to_resume(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run to resume"):
        run(config_of(data), tmp_path / "nothing", resume=True)


def test_a_budget_of_time_ends_the_run(data: Path, tmp_path: Path) -> None:
    config = config_of(data, "see", budget=BudgetConfig(max_minutes=0.02))
    assert run(config, tmp_path / "run")
    state = json.loads((tmp_path / "run" / "state" / "state.json").read_bytes())
    assert state["step"] > 0
    assert 1.2 <= state["seconds"] < 10.0


# ---------------------------------------------------------------- learning


def test_it_learns_what_the_arms_do_and_says_so(data: Path, tmp_path: Path) -> None:
    """Bright pictures go up, dark ones down: the thought and the actions must come from the picture."""
    config = config_of(
        data,
        sources=(SourceConfig(name="demos", kind="demonstrations", paths=(str(data),), weight=1.0),),
        budget=BudgetConfig(max_steps=100),
        optimiser=OptimiserConfig(vlm_rate=1e-3, expert_rate=3e-3, warmup_steps=5, ema_decay=0.9),
        data=DataConfig(batch_size=8, action_samples=2, delay_range_s=(0.0, 0.5), max_prefix=5, augment=False),
        bfloat16=False,
    )
    out = tmp_path / "run"
    assert run(config, out)
    logged = numbers(out)
    for name, factor in (("train/text", 0.02), ("train/action", 0.4)):
        steps = sorted(step for step, n in logged if n == name)
        begin = np.mean([logged[step, name] for step in steps[:3]])
        end = np.mean([logged[step, name] for step in steps[-3:]])
        assert end < factor * begin, name
    planner = SyvlaPlanner.from_pretrained(out / "checkpoint")
    for direction, word in ((1, "up"), (-1, "down")):
        image = np.full((32, 64, 3), 128 + 100 * direction, np.uint8)
        *_, final = planner.think([image], "move the arms")
        assert isinstance(final, tuple)
        thought, states = final
        assert thought == f"Both arms move {word}."
        assert states.shape == (20, 192)


def test_a_frozen_planner_stays_and_its_expert_learns(data: Path, pretrained: Path, tmp_path: Path) -> None:
    demos = SourceConfig(name="demos", kind="demonstrations", paths=(str(data),), weight=1.0)
    config = config_of(
        data, sources=(demos,), init=str(pretrained / "checkpoint"), optimiser=OptimiserConfig(freeze_vlm=True)
    )
    run(config, tmp_path / "run")
    before, after = load_spec(pretrained / "checkpoint").sha256, load_spec(tmp_path / "run" / "checkpoint").sha256
    assert [name for name in before if before[name] != after[name]] == ["expert.safetensors"]
    statistics = load_file(tmp_path / "run" / "state" / "state.safetensors")
    assert statistics["statistics.decoupling.recent"].isfinite().any(), "the expert is decoupled all the same"


def test_intents_that_are_used_again_are_the_same_in_a_run_that_was_stopped(
    data: Path, pretrained: Path, tmp_path: Path
) -> None:
    demos = SourceConfig(name="demos", kind="demonstrations", paths=(str(data),), weight=1.0)
    config = config_of(
        data,
        sources=(demos,),
        init=str(pretrained / "checkpoint"),
        optimiser=OptimiserConfig(freeze_vlm=True, warmup_steps=2),
        data=DataConfig(batch_size=2, action_samples=2, intent_uses=3, delay_range_s=(0.0, 0.5), max_prefix=5),
    )
    assert not run(config, tmp_path / "stopped", say=stop_at(3))
    assert run(config, tmp_path / "stopped", resume=True)
    assert run(config, tmp_path / "whole")
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    stopped, whole = (load_spec(tmp_path / name / "checkpoint").sha256 for name in ("stopped", "whole"))
    assert stopped == whole


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


def test_the_checkpoint_has_the_averaged_weights(pretrained: Path) -> None:
    state = load_file(pretrained / "state" / "state.safetensors")
    expert = dict(load_expert(pretrained / "checkpoint")[0].named_parameters())
    for name, tensor in expert.items():
        torch.testing.assert_close(tensor, state[f"average.expert.{name}"], rtol=0, atol=0)
    assert any(not torch.equal(tensor, state[f"model.expert.{name}"]) for name, tensor in expert.items())


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


# ---------------------------------------------------------------- stages


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
    head = load_file(pretrained / "heads.safetensors")
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
    head = load_file(pretrained / "heads.safetensors")
    assert torch.equal(build_learner(config, stage).grounding.weight, head["grounding.weight"])
    shipped = tmp_path / "shipped"
    shutil.copytree(pretrained / "checkpoint", shipped)
    shutil.copy(pretrained / "heads.safetensors", shipped)
    config = msgspec.structs.replace(config, init=str(shipped))
    assert torch.equal(build_learner(config, stage).grounding.weight, head["grounding.weight"])


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


def test_seeing_leaves_no_expert_that_a_later_stage_would_take_for_trained(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "see"
    run(config_of(data, "see", budget=BudgetConfig(max_steps=2)), out)
    assert (np.array(load_spec(out / "checkpoint").action.scale) == 1.0).all()
    policy = build_stage(config_of(data, init=str(out / "checkpoint")), RIG).policy
    assert (np.array(policy.spec.action.scale) != 1.0).any(), "measured on the demonstrations"


def test_validation_names_every_source_and_repeats_itself(data: Path, pretrained: Path) -> None:
    config = config_of(data, "pretrain")
    found = validate_checkpoint(config, RIG, pretrained / "checkpoint")
    assert found == validate_checkpoint(config, RIG, pretrained / "checkpoint")
    assert set(found) == {
        "validation/demos/text",
        "validation/demos/action",
        "error/demos/joint_rad",
        "error/demos/gripper_m",
        "error/demos/hand_m",
        "validation/scenes/seen",
        "validation/scenes/text",
        "validation/scenes/grounding",
        "error/scenes/place_m",
    }
    last = {name: value for (step, name), value in numbers(pretrained).items() if step == 6 and name in found}
    assert {name: pytest.approx(value, rel=1e-3) for name, value in found.items()} == last, "what the run ended with"
    assert 0.0 < found["error/demos/joint_rad"] < 0.5


def test_a_stage_that_is_not_there_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        build_stage(config_of(data, init="nowhere"), RIG)


def test_a_loss_that_is_not_finite_ends_the_run(data: Path, tmp_path: Path) -> None:
    config = config_of(data)
    trainer = Trainer(config, build_stage(config, RIG), tmp_path / "run", silent)
    with torch.no_grad():
        trainer.learner.planner.queries.fill_(torch.nan)
    with pytest.raises(ConfigError, match="the loss is nan at step 1"):
        trainer.run()
    assert not (tmp_path / "run" / "checkpoint").exists(), "nothing to go on from was overwritten"


def numbers(out: Path) -> dict[tuple[int, str], float]:
    """The log without what depends on the clock."""
    lines = [line.split(",") for line in (out / "log.csv").read_text().splitlines()[1:]]
    return {(int(step), name): float(value) for step, _, name, value in lines if name != "rows_hz"}
