"""The parts of the trainer that keep things: state, log, averages, rates, and the thread that makes batches."""

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from syvla.errors import ConfigError
from syvla_models.spec import SLOTS, ActionSpec
from syvla_models.train import optimiser as optim
from syvla_models.train.config import BudgetConfig, OptimiserConfig, SourceConfig, TrainConfig
from syvla_models.train.log import TrainingLog
from syvla_models.train.prefetch import Prefetch
from syvla_models.train.state import Progress, load_state, replace_folder, restore, save_state, whole_folder

CONFIG = TrainConfig(
    stage="see",
    sources=(SourceConfig(name="s", kind="scenes", paths=("x",), weight=1.0),),
    budget=BudgetConfig(max_steps=1),
)
ACTION = ActionSpec(space="joint", offset=((0.0,) * SLOTS,), scale=((0.1,) * SLOTS,))


# ---------------------------------------------------------------- state


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {"model.a": torch.randn(3, 4), "decoupling.recent": torch.tensor([1.0, torch.nan])}
    save_state(tmp_path, Progress(step=7, seconds=1.5, config=CONFIG, action=ACTION), tensors)
    save_state(tmp_path, Progress(step=8, seconds=2.5, config=CONFIG, action=ACTION), tensors)
    progress, found = load_state(tmp_path, CONFIG)
    assert (progress.step, progress.seconds, progress.action) == (8, 2.5, ACTION)
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("moment", ["while writing", "between the renames"])
def test_a_crash_leaves_one_whole_state(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, Progress(step=1, seconds=0.0, config=CONFIG, action=ACTION), {"a": torch.ones(1)})
    rename = Path.rename

    def dies(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, target)

    def half(folder: Path) -> None:
        (folder / "state.json").write_bytes(b"{")
        if moment == "while writing":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(tmp_path / "state", half)
    monkeypatch.undo()
    assert load_state(tmp_path, CONFIG)[0].step == 1
    save_state(tmp_path, Progress(step=2, seconds=0.0, config=CONFIG, action=ACTION), {"a": torch.ones(1)})
    assert load_state(tmp_path, CONFIG)[0].step == 2


def test_a_damaged_state_is_refused_by_its_folder(tmp_path: Path) -> None:
    save_state(tmp_path, Progress(step=1, seconds=0.0, config=CONFIG, action=ACTION), {"a": torch.ones(100)})
    tensors = whole_folder(tmp_path / "state") / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="state"):
        load_state(tmp_path, CONFIG)


def test_a_tensor_that_is_missing_or_misshapen_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"nothing for model\.a"):
        restore({"a": torch.zeros(2)}, {"a": torch.ones(2)}, "model.")
    with pytest.raises(ConfigError, match=r"\(3,\) for model\.a, not \(2,\)"):
        restore({"a": torch.zeros(2)}, {"model.a": torch.ones(3)}, "model.")


# ---------------------------------------------------------------- log


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    for step in (1, 2, 3):
        log.write(step, step / 10, {"train/total": 1.0 / step, "rate/vlm": 1e-3})
    resumed = TrainingLog(tmp_path, step=2)
    resumed.write(3, 0.5, {"train/total": 9.0})
    assert TrainingLog(tmp_path, step=99).curves() == {
        "train/total": ([1, 2, 3], [1.0, 0.5, 9.0]),
        "rate/vlm": ([1, 2], [1e-3, 1e-3]),
    }
    assert TrainingLog(tmp_path).curves() == {}, "a new run begins a new log"


def test_the_plot_is_a_picture_whatever_was_logged(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    assert log.plot().read_bytes().startswith(b"\x89PNG")
    log.write(1, 0.1, {"train/total": float("nan"), "train/text": 0.0, "validation/a/text": 1.0, "rows_hz": 3.0})
    assert log.plot().read_bytes().startswith(b"\x89PNG")


# ---------------------------------------------------------------- optimiser


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"planner": nn.Linear(3, 3), "expert": nn.Linear(3, 3)})


def test_rates_warm_up_and_fall_along_the_budget() -> None:
    config = OptimiserConfig(vlm_rate=1e-3, expert_rate=4e-3, warmup_steps=10, final_rate=0.1)
    optimiser = optim.build(dict(model().named_parameters()), config)
    assert optim.set_rates(optimiser, config, 0, 0.0) == pytest.approx({"vlm": 1e-4, "expert": 4e-4})
    assert optim.set_rates(optimiser, config, 9, 0.0) == pytest.approx({"vlm": 1e-3, "expert": 4e-3})
    assert optim.set_rates(optimiser, config, 50, 0.5) == pytest.approx({"vlm": 5.5e-4, "expert": 2.2e-3})
    assert optim.set_rates(optimiser, config, 99, 1.0) == pytest.approx({"vlm": 1e-4, "expert": 4e-4})
    assert {group["part"]: group["lr"] for group in optimiser.param_groups} == pytest.approx(
        {"vlm": 1e-4, "expert": 4e-4}
    )


def test_vectors_are_not_decayed() -> None:
    optimiser = optim.build(dict(model().named_parameters()), OptimiserConfig(weight_decay=0.1))
    decayed = {p.ndim: group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decayed == {1: 0.0, 2: 0.1}


def test_muon_has_the_matrices_inside_and_adamw_the_rest() -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"planner": nn.ModuleDict({"embed": nn.Linear(3, 3), "layer": nn.Linear(3, 3)})})
    parameters = dict(module.named_parameters())
    optimiser = optim.build(parameters, OptimiserConfig(warmup_steps=0))
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optim.set_rates(optimiser, OptimiserConfig(warmup_steps=0), 0, 0.0)
    optimiser.step()
    kinds = {name: set(optimiser.state_of(parameter)) for name, parameter in parameters.items()}
    adamw = {"step", "exp_avg", "exp_avg_sq"}
    assert kinds == {
        "planner.embed.weight": adamw,
        "planner.embed.bias": adamw,
        "planner.layer.weight": {"momentum_buffer"},
        "planner.layer.bias": adamw,
    }
    assert all(parameter.isfinite().all() for parameter in parameters.values())
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in parameters.values())
    alone = optim.build(parameters, OptimiserConfig(muon=False))
    assert len(alone.param_groups) == 2


def test_planner_and_expert_are_clipped_apart() -> None:
    module = model()
    optimiser = optim.build(dict(module.named_parameters()), OptimiserConfig())
    for name, parameter in module.named_parameters():
        parameter.grad = torch.full_like(parameter, 100.0 if name.startswith("expert") else 0.01)
    norms = optim.clip(optimiser, 1.0)
    assert float(norms["expert"]) == pytest.approx(100 * 12**0.5)
    largest = {name: float(p.grad.max()) for name, p in module.named_parameters() if p.grad is not None}
    assert largest["planner.weight"] == pytest.approx(0.01)
    assert largest["expert.weight"] == pytest.approx(12**-0.5)


def test_an_average_follows_and_gives_the_weights_back() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    average = optim.Average({"p": parameter}, 0.5)
    for step in (1, 2, 3):
        with torch.no_grad():
            parameter.fill_(float(step))
        average.update(step)
    # decay min(0.5, (1 + t) / (10 + t)): 2/11, 3/12, 4/13
    expected = ((1 - 2 / 11) * 0.25 + 2 * 0.75) * 4 / 13 + 3 * 9 / 13
    with average.applied():
        torch.testing.assert_close(parameter.detach(), torch.full((2,), expected))
    torch.testing.assert_close(parameter.detach(), torch.full((2,), 3.0))


def test_without_a_decay_there_is_no_average() -> None:
    parameter = nn.Parameter(torch.ones(2))
    average = optim.Average({"p": parameter}, 0.0)
    average.update(1)
    with average.applied():
        assert parameter.tolist() == [1.0, 1.0]
    assert not average.tensors


# ---------------------------------------------------------------- batches in a thread


def test_batches_come_in_order_from_where_they_should() -> None:
    with Prefetch(lambda step: step * 10, first=3) as batches:
        assert [batch for batch, _ in zip(batches, range(4), strict=False)] == [30, 40, 50, 60]


def test_what_goes_wrong_in_the_thread_is_raised_where_it_is_read() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ConfigError("no such picture")
        return step

    with Prefetch(make, first=0) as batches:
        read = iter(batches)
        assert [next(read), next(read)] == [0, 1]
        with pytest.raises(ConfigError, match="no such picture"):
            next(read)


def test_the_thread_ends_with_its_reader_and_runs_no_further_ahead_than_told() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step

    before = threading.active_count()
    with Prefetch(make, first=0, depth=2) as batches:
        assert next(iter(batches)) == 0
        time.sleep(0.1)
        assert max(made) <= 3
    assert threading.active_count() == before
