"""One training step's losses: planner, expert and the grounding head together, without any optimiser.

Text, actions and grounding are one loss and go backward through the VLM once. Under intention decoupling the expert
runs twice, the VLM does not (see ``syvla_models.decoupling``).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from syvla_models.decoupling import PercentileEstimate, decoupled
from syvla_models.expert import Expert
from syvla_models.flow import NEAR_M, distance, draw_tau, flow_loss
from syvla_models.planner import SyvlaPlanner
from syvla_models.spec import HEADS_FILE, SPEC_FILE, load_spec, verify
from syvla_models.train.batch import ActionBatch, Batch, GazeBatch
from syvla_models.train.build import Stage
from syvla_models.train.config import LossConfig, TrainConfig
from syvla_models.train.grounding import GROUNDING
from syvla_models.train.reuse import IntentBatch
from syvla_models.train.sight import PLACE_UNIT_M, Sight
from syvla_models.weights import read_tensors

# The unit of each grounded number: an arm that acts (1) or does not (0) weighs as much as being off by 10 cm.
_GROUNDING_UNIT = (1.0, PLACE_UNIT_M, PLACE_UNIT_M, PLACE_UNIT_M) * 2
_LEAST_SHARE = 1e-6  # of attention
_PLAIN = LossConfig()
# What ``syvla_models.planner.Reading`` has, with feature queries in the batch: text loss, states, features, and so on.
_Read = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


class Noise(NamedTuple):
    """What flow matching draws for the R * K chunks of a batch, made outside so that a step can be repeated."""

    noise: torch.Tensor  # (R, K, H, slots)
    tau: torch.Tensor  # (R, K)


def draw_noise(
    batch: Batch | IntentBatch, seed: int, step: int, process: int = 0, losses: LossConfig = _PLAIN
) -> Noise | None:
    """What ``batch`` needs, from (seed, step, process) alone; None if it has no robot rows.

    Of ``losses``, ``noise_deviation`` and ``at_start`` say how it is drawn.
    """
    if batch.robot is None:
        return None
    shape, device = batch.robot.actions.shape, batch.robot.actions.device
    words = np.random.SeedSequence((seed, step, process)).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
    noise = losses.noise_deviation * torch.randn(shape, generator=generator)
    tau = draw_tau(shape[0] * shape[1], generator, losses.at_start).view(shape[:2])
    return Noise(noise.to(device), tau.to(device))


class Losses(NamedTuple):
    """Scalars, float32; 0 for what a batch has nothing of."""

    total: torch.Tensor  # weighted, what is minimised
    text: torch.Tensor  # mean cross entropy of the labelled tokens, nats
    action: torch.Tensor  # mean squared error of the velocity, in training with that of the hands
    grounding: torch.Tensor  # mean distance, 1 for 10 cm
    seen: torch.Tensor  # what each image token shows: its places' distance, 1 for 10 cm, and its names'
    asked: torch.Tensor  # cross entropy of whether an image token shows what is asked about, weighted
    gaze: torch.Tensor  # cross entropy of which image token a word or a feature query looks at, nats
    masked: torch.Tensor  # share of the query states that were decoupled


class Learner(nn.Module):
    """Everything that is trained, in one module. ``live`` (slots,) says which slots of an action mean anything.

    ``expert`` None: a stage that only learns to see.
    """

    live: torch.Tensor
    unit: torch.Tensor

    def __init__(
        self,
        planner: SyvlaPlanner,
        expert: Expert | None,
        live: torch.Tensor,
        losses: LossConfig,
        *,
        names: Sequence[str] = (),
        freeze_vlm: bool = False,
    ) -> None:
        super().__init__()
        self.planner = planner
        self.expert = expert
        # One for all queries, as the expert's adapter is. Spread over all of them, places could be read here to the
        # centimetre while the expert still aimed at the middle of the table.
        # What it says is what an expert aims at, so it is a part of an expert that does.
        aim = None if expert is None else expert.aim
        self.grounding = nn.Linear(planner.spec.hidden_size, GROUNDING) if aim is None else aim.read
        self.sight = Sight(planner, names) if names else None
        self.register_buffer("live", live, persistent=False)
        self.register_buffer("unit", torch.tensor(_GROUNDING_UNIT), persistent=False)
        self.estimate = PercentileEstimate(losses.decoupling_percentile)
        self._losses = losses
        self._frozen = freeze_vlm
        self.reads = losses.reads
        self._grounded = False  # whether the grounding head is an earlier stage's
        if freeze_vlm:
            planner.requires_grad_(requires_grad=False)
            for head in (self.grounding, self.sight):
                if head is not None:
                    head.requires_grad_(requires_grad=False)

    def forward(self, batch: Batch | IntentBatch, noise: Noise | None) -> Losses:
        """The losses of ``batch``; ``noise`` only if it has robot rows (see ``draw_noise``)."""
        if not isinstance(batch, IntentBatch):
            return self.losses(batch, noise)[0]
        if noise is None:
            raise ValueError("the chunks of intents need noise")
        action, masked = self._action(batch.states, batch.robot, noise)
        none = action.new_zeros(())
        return Losses(self._losses.action * action, none, action.detach(), none, none, none, none, masked)

    @torch.no_grad()
    def states(self, batch: Batch) -> torch.Tensor:
        """The query states (B, n, D) alone, as what they are to a frozen planner."""
        return self._read(batch)[1]

    def losses(self, batch: Batch, noise: Noise | None) -> tuple[Losses, torch.Tensor]:
        """As ``forward``, and the query states (B, n, D)."""
        with torch.no_grad() if self._frozen else nullcontext():
            reading = self._read(batch) if self.reads else self._look(batch)
        text, states, features, halfway, looks = reading
        grounding = self._grounding(states, batch)
        seen = asked = text.new_zeros(())
        if batch.things is not None and self.sight is not None:
            embeddings = self.planner.vlm.get_input_embeddings()
            seen, asked = self.sight(features, halfway, embeddings, batch.things)
        gaze = text.new_zeros(()) if looks is None or batch.gaze is None else self._gaze(looks, batch.ids, batch.gaze)
        action = masked = text.new_zeros(())
        if noise is not None and batch.robot is not None:
            action, masked = self._action(states[batch.robot.rows], batch.robot, noise)
        total = self._losses.action * action
        if not self._frozen:
            total = total + self._losses.text * text + self._losses.grounding * grounding
            total = total + self._losses.seen * seen + self._losses.asked * asked + self._losses.gaze * gaze
        text, action, grounding, seen, asked, gaze = (
            part.detach() for part in (text, action, grounding, seen, asked, gaze)
        )
        return Losses(total, text, action, grounding, seen, asked, gaze, masked), states

    def heads(self) -> dict[str, torch.Tensor]:
        """The weights that only training needs, by name."""
        heads = {"grounding": self.grounding, "sight": self.sight}
        return {
            f"{head}.{name}": tensor.detach()
            for head, module in heads.items()
            if module is not None
            for name, tensor in module.state_dict().items()
        }

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch], seed: int) -> None:
        """Look at ``batches`` before an expert's first step: what query states are like, and how to read them.

        An expert that has seen any stays as it is. Its adapter begins with the grounding head, if a stage before
        taught that one.
        """
        expert = self.expert
        if expert is None or float(expert.standard.observed) > 0.0:
            return
        found: list[torch.Tensor] = []
        for batch in batches:
            if batch.robot is not None:
                found.append(self.states(batch)[batch.robot.rows])
                expert.standard.observe(found[-1])
        if found and self._grounded:
            generator = torch.Generator().manual_seed(seed)
            expert.read_at_first(self.grounding.weight * self.unit[:, None], torch.cat(found), generator)

    def load_heads(self, path: Path) -> None:
        """Take over the heads of an earlier stage, as far as they have the same shapes.

        ConfigError if the file cannot be read.
        """
        own = self.heads()
        with torch.no_grad():
            for name, tensor in read_tensors(path).items():
                if name in own and own[name].shape == tensor.shape:
                    own[name].copy_(tensor)
                    self._grounded = self._grounded or name.startswith("grounding.")

    def _read(self, batch: Batch) -> _Read:
        reading: _Read = self.planner(
            batch.ids,
            batch.attention_mask,
            batch.pixel_values,
            batch.image_grid_thw,
            batch.labels,
            batch.query_start,
            gaze=batch.gaze is not None and self._losses.gaze > 0.0,
        )
        return reading

    def _look(self, batch: Batch) -> _Read:
        """What the vision tower alone makes of the images: a quarter of the time."""
        features = self.planner.see(batch.pixel_values, batch.image_grid_thw).float()
        silent = features.new_zeros(len(batch.ids), len(self.planner.queries), features.shape[-1])
        return features.new_zeros(()), silent, features, torch.zeros_like(features), None

    def place(self, states: torch.Tensor) -> torch.Tensor:
        """Where the hands are about to act (B, 8), see ``syvla_models.train.grounding``, from states (B, n, D)."""
        return self._places(states).mean(1)

    def _places(self, states: torch.Tensor) -> torch.Tensor:
        """As each query says it (B, n, 8)."""
        numbers: torch.Tensor = self.grounding(states).float() * self.unit
        return numbers

    def _grounding(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean over the queries: of whether each arm acts the squared error, of its place the distance."""
        error = ((self._places(states) - batch.grounding[:, None]) / self.unit).unflatten(-1, (2, 4))  # (B, n, 2, 4)
        known = batch.grounding_known.unflatten(-1, (2, 4))  # (B, 2, 4)
        acts, place = error[..., 0].square(), distance(error[..., 1:] * known[:, None, :, 1:], NEAR_M / PLACE_UNIT_M)
        acts_known, place_known = known[..., 0], known[..., 1:].any(-1)
        total = (acts.mean(1) * acts_known).sum() + (place.mean(1) * place_known).sum()
        loss: torch.Tensor = total / (acts_known.sum() + place_known.sum()).clamp(min=1)
        return loss

    def _gaze(self, looks: torch.Tensor, ids: torch.Tensor, gaze: GazeBatch) -> torch.Tensor:
        """Of attention (2, B, L, L), how little goes where it should.

        The error of a place alone is least, for a long time, in the middle of all the things that an order names: what
        is fetched next is looked up late. A word needs no other to know what it names, so words look first.
        """
        images = (ids == self.planner.vlm.config.image_token_id).nonzero()[:, 1]
        columns = gaze.target.clone()
        columns[gaze.image] = images[gaze.target[gaze.image]]
        shares = looks[(~gaze.image).long(), gaze.row, gaze.position, columns].float()
        loss: torch.Tensor = -((shares + _LEAST_SHARE).log() * gaze.weight).sum() / gaze.weight.sum()
        return loss

    def _action(self, states: torch.Tensor, robot: ActionBatch, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Action loss, and the share of the query states (R, n, D) that it was decoupled from."""
        expert = self.expert
        if expert is None:
            raise ValueError("this stage has no expert")
        if self.training:
            expert.standard.observe(states)
        losses = self._losses

        def loss_of(chunks: int) -> Callable[[torch.Tensor], torch.Tensor]:
            """Of the first ``chunks`` of each row's, from the states."""
            given = (t[:, :chunks].flatten(0, 1) for t in (*robot[1:], *noise))
            actions, proprioception, age_s, prefix, leverage, start, tau = given
            hand = self._losses.hand if self.training else 0.0

            def loss(states: torch.Tensor) -> torch.Tensor:
                cache = expert.condition(states).repeat(chunks)
                senses = (proprioception, age_s)
                flow = (self.live, start, tau, prefix, *senses, cache)
                return flow_loss(expert, actions, *flow, leverage, hand, losses.executed_rows, losses.later)[0]

            return loss

        every = robot.actions.shape[1]
        loss = loss_of(every)
        if not (self._losses.decoupling and self.training):
            return loss(states), states.new_zeros(())
        probe = loss_of(min(self._losses.decoupling_samples or every, every))
        value, masked, _ = decoupled(loss, states, self.estimate, probe)
        return value, masked.float().mean()


def build_learner(config: TrainConfig, stage: Stage) -> Learner:
    """The learner of a stage; its heads go on from the stage before, if that left any."""
    policy = stage.policy
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner = Learner(
            policy.planner,
            None if config.stage == "see" else policy.expert,
            torch.from_numpy(np.asarray(policy.space.live)),
            config.loss,
            names=stage.names,
            freeze_vlm=config.optimiser.freeze_vlm,
        )
    begin = Path(config.init)
    if config.init and (begin / SPEC_FILE).exists():  # a bare Qwen2.5-VL folder has no heads
        digests = load_spec(begin).sha256
        if HEADS_FILE in digests or (begin / HEADS_FILE).exists():
            verify(begin, digests, [HEADS_FILE])
            learner.load_heads(begin / HEADS_FILE)
    if config.optimiser.gradient_checkpointing:
        policy.planner.vlm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return learner
