"""The trainer: it learns, it can be stopped at any moment, and its stages go on from each other."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models.runs import RIG, config_of, numbers, record, run, silent

from syvla.errors import ConfigError, SyvlaError
from syvla_models.checkpoint import load_expert
from syvla_models.planner import SyvlaPlanner
from syvla_models.spec import load_spec
from syvla_models.train import trainer
from syvla_models.train.build import build_stage
from syvla_models.train.config import (
    BudgetConfig,
    DataConfig,
    LossConfig,
    OptimiserConfig,
    OutputConfig,
    SourceConfig,
)
from syvla_models.train.trainer import Trainer


def stop_at(step: int) -> Callable[[str], None]:
    """Somebody presses Ctrl-C when the line of ``step`` is printed."""

    def say(line: str) -> None:
        if line.startswith(f"step {step} ("):
            os.kill(os.getpid(), signal.SIGINT)

    return say


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


def test_a_ctrl_c_that_arrives_twice_still_saves(data: Path, tmp_path: Path) -> None:
    """A process of torchrun gets it from the terminal and from torchrun: the second broke off the save of the state."""
    out = tmp_path / "stopped"

    def say(line: str) -> None:
        stop_at(1)(line)
        stop_at(1)(line)

    assert not run(config_of(data, "pretrain"), out, say=say)
    assert json.loads((out / "state" / "state.json").read_bytes())["step"] == 1


def test_a_second_ctrl_c_ends_a_run_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_SAME_S", -1.0)

    def say(line: str) -> None:
        stop_at(1)(line)
        stop_at(1)(line)

    with pytest.raises(KeyboardInterrupt):
        run(config_of(data, "pretrain"), tmp_path / "run", say=say)


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


def test_how_often_it_does_what_it_is_told_is_logged_and_changes_nothing_of_what_it_learns(
    data: Path, pretrained: Path, tmp_path: Path
) -> None:
    """A loss that fell nicely came with a closed loop that failed every time."""
    tried: list[str] = []
    lines: list[str] = []

    def act(folder: Path) -> Generator[tuple[str, bool]]:
        tried.append(load_spec(folder).model_id)
        time.sleep(1.0)
        yield from (("fold", True), ("sort", False), ("fold", False))

    def say(line: str) -> None:
        lines.append(line)
        time.sleep(0.2 * ("total" in line))  # a step

    output = OutputConfig(log_every_steps=1, validation_rows=6, episodes=1, episodes_every_minutes=0.01)
    out = tmp_path / "run"
    begun_s = time.monotonic()
    assert run(config_of(data, "pretrain", output=output), out, say=say, act=act)
    taken_s = time.monotonic() - begun_s
    assert len(tried) >= 2, "between two steps, and at the end"
    seconds = json.loads((out / "state" / "state.json").read_bytes())["seconds"]
    assert seconds < taken_s - 1.0 * len(tried), "it takes nothing from a budget of time"
    logged = numbers(out)
    assert logged[6, "success/fold"] == 0.5
    assert logged[6, "success/sort"] == 0.0
    assert "step 6, in the closed loop: fold 1/2 done, sort 0/1 done" in lines
    assert tried[-1] == load_spec(out / "checkpoint").model_id == load_spec(pretrained / "checkpoint").model_id
    assert (out / "losses.png").stat().st_size > 0


@pytest.mark.parametrize("kind", [SyvlaError, RuntimeError])
def test_episodes_that_cannot_be_acted_do_not_end_a_training(data: Path, tmp_path: Path, kind: type[Exception]) -> None:
    """Two more policies beside the training were too much for the machine's memory; or nothing draws pictures there."""
    lines: list[str] = []

    def act(folder: Path) -> Generator[tuple[str, bool]]:
        yield "fold", True
        raise kind("one of the processes died")

    out = tmp_path / "run"
    assert run(config_of(data, "pretrain", output=OutputConfig(episodes=1)), out, say=lines.append, act=act)
    assert "step 6: not tried in the closed loop: one of the processes died" in lines
    assert load_spec(out / "checkpoint").expert is not None


def test_somebody_who_stops_a_run_does_not_wait_for_all_its_episodes(data: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def act(folder: Path) -> Generator[tuple[str, bool]]:
        for number in range(1000):
            seen.append(number)
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield "fold", True

    output = OutputConfig(log_every_steps=1, validation_rows=6, episodes=1, episodes_every_minutes=0.01)
    config = config_of(data, "pretrain", output=output, budget=BudgetConfig(max_steps=10_000))
    out = tmp_path / "run"
    assert not run(config, out, act=act), "the signal ends the run, cleanly"
    assert seen == [0, 1, 2]
    assert not any(name.startswith("success/") for _, name in numbers(out))


def test_a_frozen_planner_stays_and_its_expert_learns(data: Path, pretrained: Path, tmp_path: Path) -> None:
    demos = SourceConfig(name="demos", kind="demonstrations", paths=(str(data),), weight=1.0)
    config = config_of(
        data, sources=(demos,), init=str(pretrained / "checkpoint"), optimiser=OptimiserConfig(freeze_vlm=True)
    )
    run(config, tmp_path / "run")
    before, after = load_spec(pretrained / "checkpoint").sha256, load_spec(tmp_path / "run" / "checkpoint").sha256
    changed = [name for name in before if before[name] != after[name] and name.endswith(".safetensors")]
    assert changed == ["expert.safetensors", "heads.safetensors"], "nothing of the planner"
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


def test_the_checkpoint_has_the_averaged_weights(pretrained: Path) -> None:
    state = load_file(pretrained / "state" / "state.safetensors")
    expert = dict(load_expert(pretrained / "checkpoint")[0].named_parameters())
    for name, tensor in expert.items():
        torch.testing.assert_close(tensor, state[f"average.expert.{name}"], rtol=0, atol=0)
    assert any(not torch.equal(tensor, state[f"model.expert.{name}"]) for name, tensor in expert.items())


def test_seeing_leaves_no_expert_that_a_later_stage_would_take_for_trained(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "see"
    run(config_of(data, "see", budget=BudgetConfig(max_steps=2)), out)
    assert (np.array(load_spec(out / "checkpoint").action.scale) == 1.0).all()
    policy = build_stage(config_of(data, init=str(out / "checkpoint")), RIG).policy
    assert (np.array(policy.spec.action.scale) != 1.0).any(), "measured on the demonstrations"


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


def test_weights_that_are_not_finite_do_not_replace_those_that_were_saved(data: Path, tmp_path: Path) -> None:
    """Between two reports of the loss nobody had looked, and a state that nothing could go on from was saved."""
    config = config_of(data, output=OutputConfig(log_every_steps=1000, validation_rows=6))
    trainer = Trainer(config, build_stage(config, RIG), tmp_path / "run", silent)
    trainer._save()
    saved = (tmp_path / "run" / "state" / "state.safetensors").read_bytes()
    with torch.no_grad():
        trainer.learner.planner.queries.fill_(torch.nan)
    with pytest.raises(ConfigError, match="the weights are not finite at step 6"):
        trainer.run()
    assert (tmp_path / "run" / "state" / "state.safetensors").read_bytes() == saved


def test_a_run_does_not_go_on_with_actions_that_are_normalised_otherwise(data: Path, tmp_path: Path) -> None:
    """One more recording in a source's folder, and all weights would have met another scale."""
    own, out = shutil.copytree(data, tmp_path / "data"), tmp_path / "run"
    assert not run(config_of(own), out, say=stop_at(3))
    record(own / "another.mcap", 0.1)
    with pytest.raises(
        ConfigError, match=r"action\.offset, by which actions are normalised, is not what this run began"
    ):
        run(config_of(own), out, resume=True)
    (own / "another.mcap").unlink()
    numbers_file = out / "state" / "state.json"
    earlier = {key: value for key, value in json.loads(numbers_file.read_bytes()).items() if key != "action"}
    numbers_file.write_text(json.dumps(earlier))  # as it was saved before that was kept
    assert run(config_of(own), out, resume=True)
