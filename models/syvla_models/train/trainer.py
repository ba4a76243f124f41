"""The trainer: one loop for every stage; a stage is its configuration (see ``syvla_models.train.config``).

A batch and its noise depend on the seed and the step alone, so a run that was stopped and resumed gives the numbers
of one that was not, as long as its budget counts steps (a budget of minutes moves the learning rate with the clock).
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

import msgspec
import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from syvla.config import RigConfig
from syvla.errors import ConfigError
from syvla_models import checkpoint
from syvla_models.spec import ActionSpec, load_spec
from syvla_models.train import optimiser as optim
from syvla_models.train.batch import Batch
from syvla_models.train.build import Stage, build_stage
from syvla_models.train.config import TrainConfig
from syvla_models.train.learner import Losses, build_learner, draw_noise
from syvla_models.train.log import SUCCESS, Say, TrainingLog, silent
from syvla_models.train.precision import has_bfloat16, mixed_precision
from syvla_models.train.prefetch import Prefetch
from syvla_models.train.reuse import IntentBatch, Reuse
from syvla_models.train.state import (
    CHECKPOINT_FOLDER,
    STATE_FOLDER,
    Progress,
    load_state,
    replace_folder,
    restore,
    save_state,
    whole_folder,
)
from syvla_models.train.validation import Validation

Act = Callable[[Path], Generator[tuple[str, bool]]]  # a checkpoint's episodes in the closed loop: the task, and success

_PREPARED_STEPS = 32
_PATIENCE = timedelta(hours=6)  # with the first of several processes, which may be trying what was learned
_SAME_S = 2.0  # one Ctrl-C reaches a process of torchrun twice: from the terminal and from torchrun


def train(
    config: TrainConfig, rig: RigConfig, out: Path, *, resume: bool, say: Say = print, act: Act | None = None
) -> bool:
    """Run a stage into ``out``; True if it came to its end, False if a signal stopped it (its state is saved).

    With ``act`` the policy is watched in the closed loop, too, not only by its losses.

    Raises:
        ConfigError: ``out`` has a run already and ``resume`` is False, or none that could be resumed, or the sources
            or the checkpoint to begin from are not what the configuration says.
    """
    if not resume and whole_folder(out / STATE_FOLDER).exists():
        raise ConfigError(f"{out}: there is a run already; go on with --resume, or choose another folder")
    saved = load_state(out, config) if resume else None  # before the sources are read, which takes a while
    if config.threads:
        torch.set_num_threads(config.threads)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    say = say if state.is_main_process else silent
    trainer = Trainer(config, build_stage(config, rig, say), out, say, act)
    if saved is not None:
        trainer.restore(*saved)
    return trainer.run()


def validate_checkpoint(config: TrainConfig, rig: RigConfig, folder: Path) -> dict[str, float]:
    """The validation losses and errors of the checkpoint in ``folder`` on the sources of ``config``, by name."""
    if config.threads:
        torch.set_num_threads(config.threads)
    spec = load_spec(folder)
    model = msgspec.structs.replace(config.model, expert=spec.expert)
    action = msgspec.structs.replace(config.action, space=spec.action.space)
    config = msgspec.structs.replace(config, init=str(folder), model=model, action=action)
    stage = build_stage(config, rig)
    learner = build_learner(config, stage).to("cuda" if torch.cuda.is_available() else "cpu")
    return _validation(config, stage).measure(learner)


class Trainer:
    """A run of one stage in ``out``."""

    def __init__(self, config: TrainConfig, stage: Stage, out: Path, say: Say = print, act: Act | None = None) -> None:
        self._config, self._stage, self._out, self._act = config, stage, out, act
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a batch may have no robot rows
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
        self._main = self._accelerator.is_main_process
        self._say = say
        self.learner = build_learner(config, stage).to(self._accelerator.device)
        self._model = self._accelerator.prepare_model(self.learner)
        self._parameters = {name: p for name, p in self.learner.named_parameters() if p.requires_grad}
        self._optimiser = optim.build(self._parameters, config.optimiser)
        self._average = optim.Average(self._parameters, config.optimiser.ema_decay)
        self._validation = _validation(config, stage)
        self.step = 0
        self.seconds = 0.0  # of all sittings
        self._log: TrainingLog | None = None

    # ------------------------------------------------------------ the loop

    def run(self) -> bool:
        """Train to the end of the budget; True if that was reached, False if a signal came first."""
        config, output = self._config, self._config.output
        self._out.mkdir(parents=True, exist_ok=True)
        self._log = TrainingLog(self._out, self.step) if self._main else None
        batches = self._stage.batches(config, self._accelerator.process_index)
        self._prepare()
        begin_s, before_s, first = time.monotonic(), self.seconds, self.step
        saved_s = validated_s = acted_s = before_s
        recent: list[tuple[Losses, dict[str, torch.Tensor]]] = []
        self._say(self._words())
        reuse = Reuse(self._states, config.data.intent_uses, config.seed) if config.optimiser.freeze_vlm else None
        first_batch = self.step if reuse is None else reuse.first(self.step)
        with _stopped() as stopped, Prefetch(batches, first_batch) as prefetched:
            self.learner.train()
            made = (batch.to(self._accelerator.device) for batch in prefetched)
            for batch in made if reuse is None else reuse(made, self.step):
                self.seconds, stop = self._agreed(before_s + time.monotonic() - begin_s, stopped.is_set())
                fraction = config.budget.fraction(self.step, self.seconds)
                if stop or fraction >= 1.0:
                    break
                if self.seconds - validated_s >= 60.0 * output.validate_every_minutes:
                    self._validate()
                    validated_s = self.seconds
                if self.seconds - saved_s >= 60.0 * output.save_every_minutes:
                    self._save()
                    saved_s = self.seconds
                if self._act is not None and self.seconds - acted_s >= 60.0 * output.episodes_every_minutes:
                    acting_s = time.monotonic()
                    self._save()
                    self._try(stopped)
                    begin_s += time.monotonic() - acting_s
                    saved_s = acted_s = self.seconds
                rates = optim.set_rates(self._optimiser, config.optimiser, self.step, fraction)
                recent.append(self._train_on(batch))
                if self.step % output.log_every_steps == 0:
                    rate_hz = (self.step - first) / max(1e-9, time.monotonic() - begin_s)
                    self._report(recent, rates, rate_hz)
                    recent.clear()
            self._save()
            if not stop:
                self._validate()
                self._try(stopped)
        words = "stopped by a signal; go on with --resume" if stop else f"done: {self._out / CHECKPOINT_FOLDER}"
        self._say(f"step {self.step}: {words}")
        return not stop

    def _prepare(self) -> None:
        """The same in every process: what the first of them will see first."""
        first = self._stage.batches(self._config, 0)
        with mixed_precision(self._accelerator.device, bfloat16=self._config.bfloat16):
            batches = (first(step).to(self._accelerator.device) for step in range(_PREPARED_STEPS))
            self.learner.prepare(batches, self._config.seed)

    def _states(self, batch: Batch) -> torch.Tensor:
        with mixed_precision(self._accelerator.device, bfloat16=self._config.bfloat16):
            return self.learner.states(batch)

    def _train_on(self, batch: Batch | IntentBatch) -> tuple[Losses, dict[str, torch.Tensor]]:
        """One step; its losses and the norms of its gradients."""
        noise = draw_noise(batch, self._config.seed, self.step, self._accelerator.process_index, self._config.loss)
        with mixed_precision(self._accelerator.device, bfloat16=self._config.bfloat16):
            losses: Losses = self._model(batch, noise)
        self._optimiser.zero_grad()
        self._accelerator.backward(losses.total)
        norms = optim.clip(self._optimiser, self._config.optimiser.grad_clip)
        self._optimiser.step()
        self.step += 1
        self._average.update(self.step)
        return losses._replace(total=losses.total.detach()), norms

    def _agreed(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The same for every process: the first one's clock, and whether any was told to stop."""
        if self._accelerator.num_processes == 1:
            return seconds, stop
        mine = torch.tensor([seconds if self._main else 0.0, float(stop)], device=self._accelerator.device)
        seconds, stops = self._accelerator.reduce(mine, "sum").tolist()
        return seconds, stops > 0.0

    # ------------------------------------------------------------ words and numbers

    def _words(self) -> str:
        counts = {"vlm": 0, "expert": 0}
        for name, parameter in self._parameters.items():
            counts["vlm" if name.startswith(optim.VLM_PREFIX) else "expert"] += parameter.numel()
        device = self._accelerator.device
        arithmetic = "bfloat16" if self._config.bfloat16 and has_bfloat16(device) else "float32"
        where = f"{self._accelerator.num_processes} x {device.type} in {arithmetic}"
        begin = f"going on at step {self.step}" if self.step else "from the beginning"
        return (
            f"{self._config.stage} on {where}, {begin}: {counts['vlm'] / 1e6:.2f} M parameters of the planner, "
            f"{counts['expert'] / 1e6:.2f} M of the expert"
        )

    def _report(
        self, recent: list[tuple[Losses, dict[str, torch.Tensor]]], rates: dict[str, float], rate_hz: float
    ) -> None:
        """Print and log the means over ``recent`` steps; ConfigError if a loss is not finite."""
        means = {
            f"train/{name}": float(torch.stack([getattr(losses, name) for losses, _ in recent]).mean())
            for name in Losses._fields
        }
        if not math.isfinite(means["train/total"]):
            raise ConfigError(
                f"the loss is {means['train/total']} at step {self.step}: the learning rates are too high"
            )
        rows_hz = rate_hz * self._config.data.batch_size * self._accelerator.num_processes
        self._write(
            means
            | {f"rate/{part}": rate for part, rate in rates.items()}
            | {f"norm/{part}": float(norm) for part, norm in recent[-1][1].items()}
            | {"rows_hz": rows_hz}
        )
        fraction = self._config.budget.fraction(self.step, self.seconds)
        left_min = self.seconds * (1.0 - fraction) / max(fraction, 1e-9) / 60.0
        parts = ", ".join(f"{n} {means[f'train/{n}']:.4f}" for n in Losses._fields if means[f"train/{n}"] != 0.0)
        self._say(f"step {self.step} ({fraction:.1%}, {left_min:.0f} min left): {parts}; {rows_hz:.1f} rows/s")

    def _validate(self) -> None:
        if self._main:
            with self._average.applied():
                found = self._validation.measure(self.learner)
            self._write(found)
            self._say(f"step {self.step}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
            if self._log is not None:
                self._log.plot()
        self._accelerator.wait_for_everyone()

    def _try(self, stopped: threading.Event) -> None:
        """How often what was just saved does what it is told; nothing is said if somebody stops it.

        Whatever goes wrong with the episodes, training goes on.
        """
        if self._main and self._act is not None and not stopped.is_set():
            try:
                done = self._acted(self._act, stopped)
            except Exception as error:  # noqa: BLE001 - of the policy, the twin or its pictures
                done = {}
                self._say(f"step {self.step}: not tried in the closed loop: {error}")
            if done and not stopped.is_set():
                self._write({f"{SUCCESS}{task}": sum(each) / len(each) for task, each in done.items()})
                words = ", ".join(f"{task} {sum(each)}/{len(each)} done" for task, each in done.items())
                self._say(f"step {self.step}, in the closed loop: {words}")
                if self._log is not None:
                    self._log.plot()
        self._accelerator.wait_for_everyone()

    def _acted(self, act: Act, stopped: threading.Event) -> dict[str, list[bool]]:
        """Successes by task; once ``stopped``, only the episodes that are under way are waited for."""
        done: dict[str, list[bool]] = {}
        with closing(act(self._out / CHECKPOINT_FOLDER)) as episodes:
            for task, success in episodes:
                done.setdefault(task, []).append(success)
                if stopped.is_set():
                    break
        return done

    def _write(self, values: dict[str, float]) -> None:
        if self._log is not None:
            self._log.write(self.step, self.seconds, values)

    # ------------------------------------------------------------ saving

    def restore(self, progress: Progress, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from what :func:`load_state` gave; ConfigError if the actions would be normalised otherwise now."""
        changed = _normalised_otherwise(progress.action, self._stage.policy.spec.action)
        if changed:
            raise ConfigError(
                f"{self._out}: action.{changed}, by which actions are normalised, is not what this run began with: the "
                f"recordings of its sources or the checkpoint of init are others now"
            )
        restore(self._parameters, tensors, "model.")
        restore(self._average.tensors, tensors, "average.")
        restore(self._statistics(), tensors, "statistics.")
        prefix = "moment."
        saved = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        optim.restore_moments(self._optimiser, self._parameters, saved)
        self.step, self.seconds = progress.step, progress.seconds

    def _statistics(self) -> dict[str, torch.Tensor]:
        """What is neither learned nor a moment, by name."""
        expert = self.learner.expert
        standard = {} if expert is None else dict(expert.standard.named_buffers(prefix="standard"))
        return {"decoupling.recent": self.learner.estimate.recent, **standard}

    def _save(self) -> None:
        """The state to go on from, and the checkpoint with the averaged weights; ConfigError if they are no numbers."""
        if not all(bool(torch.isfinite(each).all()) for each in self._parameters.values()):
            raise ConfigError(f"the weights are not finite at step {self.step}, and are not saved to {self._out}")
        if self._main:
            parts: dict[str, Mapping[str, torch.Tensor]] = {
                "model.": self._parameters,
                "average.": self._average.tensors,
                "moment.": optim.moments(self._optimiser, self._parameters),
                "statistics.": self._statistics(),
            }
            tensors = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}
            policy = self._stage.policy
            progress = Progress(step=self.step, seconds=self.seconds, config=self._config, action=policy.spec.action)
            save_state(self._out, progress, tensors)
            with self._average.applied():
                replace_folder(
                    self._out / CHECKPOINT_FOLDER,
                    lambda folder: checkpoint.save(
                        folder, policy.planner, policy.expert, policy.spec, self.learner.heads()
                    ),
                )
        self._accelerator.wait_for_everyone()


def _normalised_otherwise(began: ActionSpec | None, now: ActionSpec) -> str | None:
    """The field of what actions are normalised by that has changed; rounding of another machine is no change."""
    for field in ("offset", "scale", "state_offset", "state_scale"):
        if began is not None and not np.allclose(getattr(began, field), getattr(now, field), rtol=1e-5, atol=1e-9):
            return field
    return None


def _validation(config: TrainConfig, stage: Stage) -> Validation:
    return Validation(stage, config.output.validation_rows, config.seed, config.loss, bfloat16=config.bfloat16)


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; one that comes later than ``_SAME_S`` after it does what it always did."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    first_s = math.inf

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        if time.monotonic() - first_s > _SAME_S:
            put_back()
            signal.raise_signal(number)
        elif not event.is_set():
            event.set()
            first_s = time.monotonic()

    for number in before:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        put_back()
