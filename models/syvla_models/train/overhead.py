"""What intention decoupling costs: a whole training step with it and without it, in turns.

``python -m syvla_models.train.overhead`` prints it for a policy whose expert has just under a fifth of the parameters.
The step is the trainer's own, with the losses of the twin's stages, on a batch in which every row has actions: in those
half of the rows are questions, which decoupling costs nothing.
"""

import statistics
import sys
import time
from typing import NamedTuple

import msgspec
import torch

from syvla_models import images
from syvla_models.expert import TINY, Expert
from syvla_models.flow import HAND_STRIDE
from syvla_models.planner import SyvlaPlanner
from syvla_models.prompt import collate, training_sequence
from syvla_models.spec import SLOTS, ExpertConfig
from syvla_models.tiny import build_tiny, tiny_spec
from syvla_models.train import optimiser as optim
from syvla_models.train.batch import ActionBatch, Batch
from syvla_models.train.config import LossConfig, OptimiserConfig
from syvla_models.train.learner import Learner, draw_noise
from syvla_models.train.precision import mixed_precision

HIDDEN_SIZE = 320  # of the planner: with the twin's expert, 18.6 % of the parameters are the expert's
_INSTRUCTION = "Put the red cube into the box"
_THOUGHT = "The red cube is on the left. The left arm goes to the cube, the right arm waits. Next: grasp the red cube."
_LOSSES = LossConfig(hand=1.0, noise_deviation=0.3, at_start=0.5, executed_rows=15, later=0.1, decoupling_samples=1)
_OPTIMISER = OptimiserConfig()
_CPU = torch.device("cpu")


class Overhead(NamedTuple):
    """Medians over whole steps of each kind."""

    plain_s: float
    decoupled_s: float
    parameters: int  # of planner and expert
    expert_share: float  # of the parameters

    @property
    def fraction(self) -> float:
        """How much longer a step takes with decoupling: 0.1 for a tenth."""
        return self.decoupled_s / self.plain_s - 1.0


def overhead(
    *, hidden_size: int = HIDDEN_SIZE, expert: ExpertConfig = TINY, batch: int = 8, chunks: int = 4, steps: int = 15
) -> Overhead:
    """Measure ``steps`` training steps with decoupling and as many without, in turns, after one of each.

    A step is forward, backward, clipping and optimiser; which kind goes first changes from turn to turn.

    Args:
        hidden_size: Of the planner, which is the tiny one otherwise: it sets the expert's share of the parameters.
        expert: The expert's size.
        batch: Rows through the planner.
        chunks: Action chunks for each of them; decoupling takes its gradient from one.
        steps: Of each kind.
    """
    torch.manual_seed(0)
    planner = build_tiny([_INSTRUCTION, _THOUGHT], tiny_spec(hidden_size=hidden_size))
    acting = Expert(msgspec.structs.replace(expert, intent_width=hidden_size))
    live = torch.ones(acting.config.slots, dtype=torch.bool)
    losses = {on: msgspec.structs.replace(_LOSSES, decoupling=on) for on in (False, True)}
    learners = {on: Learner(planner, acting, live, losses[on]).train() for on in losses}
    parameters = dict(learners[True].named_parameters())  # of both
    optimiser = optim.build(parameters, _OPTIMISER)
    given = _batch(planner, acting.config, batch, chunks)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(1 + steps):
        for on in (False, True) if turn % 2 else (True, False):
            begun_s = time.perf_counter()
            with mixed_precision(_CPU, bfloat16=True):
                total = learners[on](given, draw_noise(given, 0, turn, losses=losses[on])).total
            optimiser.zero_grad()
            total.backward()
            optim.clip(optimiser, _OPTIMISER.grad_clip)
            optim.set_rates(optimiser, _OPTIMISER, turn, 0.0)
            optimiser.step()
            taken[on].append(time.perf_counter() - begun_s)
    plain_s, decoupled_s = (statistics.median(times[1:]) for times in taken.values())
    counts = [sum(p.numel() for p in part.parameters()) for part in (planner, acting)]
    return Overhead(plain_s, decoupled_s, sum(counts), counts[1] / sum(counts))


def _batch(planner: SyvlaPlanner, expert: ExpertConfig, rows: int, chunks: int) -> Batch:
    """Random pictures and actions, and the words of a demonstration."""
    spec, vision = planner.spec, planner.vlm.config.vision_config
    words = planner.prompt(_INSTRUCTION), planner.encode(_THOUGHT)
    tokens = collate([training_sequence(*words, planner.end_id, spec.feature_queries)] * rows, planner.pad_id)
    views = [torch.randint(256, (view.height, view.width, 3)).byte().numpy() for view in spec.views] * rows
    pixels, grids = images.patches(views, vision.patch_size, vision.spatial_merge_size)
    robot = ActionBatch(
        rows=torch.arange(rows),
        actions=torch.randn(rows, chunks, expert.horizon, expert.slots),
        state=torch.randn(rows, chunks, SLOTS),
        age_s=torch.rand(rows, chunks),
        prefix=torch.randint(0, min(15, expert.horizon), (rows, chunks)),
        leverage=0.1 * torch.randn(rows, chunks, expert.horizon // HAND_STRIDE, 2, 3, expert.slots // 2),
    )
    return Batch(
        **tokens._asdict(),
        pixel_values=pixels,
        image_grid_thw=grids,
        grounding=torch.rand(rows, 8),
        grounding_known=torch.ones(rows, 8, dtype=torch.bool),
        robot=robot,
        sources=("demonstrations",) * rows,
    )


def main() -> None:
    """Measure and print."""
    measured = overhead()
    sys.stdout.write(
        f"{measured.parameters / 1e6:.1f} M parameters, {measured.expert_share:.1%} of them the expert's: "
        f"{1e3 * measured.plain_s:.0f} ms a step, {1e3 * measured.decoupled_s:.0f} ms with decoupling "
        f"({measured.fraction:+.1%}, medians)\n"
    )


if __name__ == "__main__":
    main()
