"""What intention decoupling costs: a whole training step with it and without it, in turns.

``python -m syvla_models.train.overhead`` prints it for a policy whose expert has a sixth of the parameters.
"""

import sys
import time
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from syvla_models import images
from syvla_models.decoupling import PercentileEstimate, decoupled
from syvla_models.expert import TINY, Expert
from syvla_models.flow import draw_tau, flow_loss
from syvla_models.planner import SyvlaPlanner
from syvla_models.prompt import collate, training_sequence
from syvla_models.spec import SLOTS, ExpertConfig
from syvla_models.tiny import build_tiny, tiny_spec

_INSTRUCTION = "Put the red cube into the box"
_THOUGHT = "The red cube is on the left. The left arm goes to the cube, the right arm waits. Next: grasp the red cube."


class Overhead(NamedTuple):
    """The fastest whole step of each kind, which other work on the machine disturbs least."""

    plain_s: float
    decoupled_s: float
    parameters: int  # of planner and expert
    expert_share: float  # of the parameters

    @property
    def fraction(self) -> float:
        """How much longer a step takes with decoupling: 0.1 for a tenth."""
        return self.decoupled_s / self.plain_s - 1.0


def overhead(
    *, hidden_size: int = 512, expert: ExpertConfig = TINY, batch: int = 8, action_samples: int = 1, steps: int = 9
) -> Overhead:
    """Measure ``steps`` training steps with decoupling and as many without, in turns, after one of each.

    A step is forward, backward and optimiser.

    Args:
        hidden_size: Of the planner, which is the tiny one otherwise: it sets the expert's share of the parameters.
        expert: The expert's size.
        batch: Rows through the planner.
        action_samples: Action chunks for each of them.
        steps: Of each kind.
    """
    torch.manual_seed(0)
    planner = build_tiny([_INSTRUCTION, _THOUGHT], tiny_spec(hidden_size=hidden_size))
    learner = _Step(planner, Expert(msgspec.structs.replace(expert, intent_width=hidden_size)), batch, action_samples)
    optimiser = torch.optim.AdamW(learner.parameters(), 1e-4, fused=True)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(1 + steps):
        for decoupling in taken:
            start = time.perf_counter()
            optimiser.zero_grad()
            learner(decoupling).backward()
            optimiser.step()
            taken[decoupling].append(time.perf_counter() - start)
    counts = [sum(p.numel() for p in part.parameters()) for part in (learner.planner, learner.expert)]
    plain_s, decoupled_s = (min(times[1:]) for times in taken.values())
    return Overhead(plain_s, decoupled_s, sum(counts), counts[1] / sum(counts))


class _Step(nn.Module):
    """Text and action loss of one and the same batch of random pictures and actions."""

    def __init__(self, planner: SyvlaPlanner, expert: Expert, batch: int, action_samples: int) -> None:
        super().__init__()
        self.planner, self.expert, self.estimate = planner, expert, PercentileEstimate()
        spec, chunks = planner.spec, batch * action_samples
        sequence = training_sequence(
            planner.prompt(_INSTRUCTION), planner.encode(_THOUGHT), planner.end_id, spec.feature_queries
        )
        self._batch = collate([sequence] * batch, planner.pad_id)
        views = [torch.randint(256, (view.height, view.width, 3)).byte().numpy() for view in spec.views] * batch
        vision = planner.vlm.config.vision_config
        self._pixels, self._grids = images.patches(views, vision.patch_size, vision.spatial_merge_size)
        self._repeat = action_samples
        rows = (chunks, expert.config.horizon, expert.config.slots)
        self._actions, self._noise, self._tau = torch.randn(rows), torch.randn(rows), draw_tau(chunks)
        self._live = torch.ones(expert.config.slots, dtype=torch.bool)
        self._state = (
            torch.zeros(chunks, dtype=torch.int64),
            torch.randn(chunks, SLOTS),
            torch.zeros(chunks),
        )

    def forward(self, decoupling: bool) -> Tensor:
        ids, attention_mask, labels, query_start = self._batch
        text, states, *_ = self.planner(ids, attention_mask, self._pixels, self._grids, labels, query_start)
        action = decoupled(self._action, states, self.estimate)[0] if decoupling else self._action(states)
        total: Tensor = text + action
        return total

    def _action(self, states: Tensor) -> Tensor:
        cache = self.expert.condition(states).repeat(self._repeat)
        return flow_loss(self.expert, self._actions, self._live, self._noise, self._tau, *self._state, cache)[0]


def main() -> None:
    """Measure and print."""
    measured = overhead()
    sys.stdout.write(
        f"{measured.parameters / 1e6:.1f} M parameters, {measured.expert_share:.0%} of them the expert's: "
        f"{1e3 * measured.plain_s:.0f} ms a step, {1e3 * measured.decoupled_s:.0f} ms with decoupling "
        f"({measured.fraction:+.1%})\n"
    )


if __name__ == "__main__":
    main()
