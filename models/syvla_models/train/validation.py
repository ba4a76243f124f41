"""How well a policy does on what it was not trained on: losses of every source, and errors in metres and radians."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from syvla.message import Float64
from syvla_models.actions import PER_ARM, POSITION, state_slots
from syvla_models.expert import Expert
from syvla_models.flow import sample
from syvla_models.prefix import GRIPPERS
from syvla_models.train.batch import ActionBatch
from syvla_models.train.build import Stage
from syvla_models.train.config import LossConfig
from syvla_models.train.learner import Learner, draw_noise
from syvla_models.train.precision import mixed_precision
from syvla_models.train.samples import CLOSING_M_S, Sample

ERROR_ROWS = 15  # half a second: about what is executed before the next chunk
AIM_ROWS = 10  # before these, up to ``samples.RETURN_S``, an arm that was put beside a demonstration is on its way back
MISS_M = 0.015  # beside a thing: hardly a grasp holds
_BATCH = 32


class Validation:
    """Measures a learner on the same samples, with the same noise, every time.

    For each source: ``validation/<source>/seen``, ``text``, ``grounding`` and ``action`` are losses as in training (the
    action's without that of the hands); ``error/<source>/place_m`` is how far the grounded places are off,
    ``joint_rad``, ``gripper_m`` and ``hand_m`` how far joints, grippers and grasp points are from the
    demonstration's in the first half second of a sampled chunk; ``misses`` is the share of hands that are more than
    1.5 cm beside the demonstration's where that one closes. The thought is the demonstration's own: what the planner
    would have thought is for the closed loop to tell.
    """

    def __init__(self, stage: Stage, rows: int, seed: int, losses: LossConfig, *, bfloat16: bool) -> None:
        """``rows`` samples of every source, with the noise of ``losses`` in the action loss."""
        self._stage, self._rows, self._seed, self._bfloat16 = stage, rows, seed, bfloat16
        self._losses = losses

    @torch.no_grad()
    def measure(self, learner: Learner) -> dict[str, float]:
        """The numbers by name; of those that a source has nothing of, none. The learner is left as it was."""
        training = learner.training
        learner.eval()
        try:
            return {name: value for source in self._stage.mixture.sources for name, value in self._of(source, learner)}
        finally:
            learner.train(training)

    def _of(self, source: str, learner: Learner) -> list[tuple[str, float]]:
        totals: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for first in range(0, self._rows, _BATCH):
            rows = range(first, min(first + _BATCH, self._rows))
            samples = [self._stage.mixture.validation(source, i) for i in rows]
            for name, value, weight in self._batch(samples, first, learner):
                totals[name].append((value, weight))
        return [
            (name.format(source), sum(v * w for v, w in pairs) / sum(w for _, w in pairs))
            for name, pairs in totals.items()
        ]

    def _batch(self, samples: Sequence[Sample], first: int, learner: Learner) -> list[tuple[str, float, int]]:
        """(name with {} for the source, mean, how many it is the mean of)."""
        device = learner.live.device
        batch = self._stage.collator.collate(samples).to(device)
        noise = draw_noise(batch, self._seed, first, losses=self._losses)
        with mixed_precision(device, bfloat16=self._bfloat16):
            losses, states = learner.losses(batch, noise)
        found: list[tuple[str, float, int]] = []
        if batch.things is not None:
            found.append(("validation/{}/seen", float(losses.seen), len(batch.things.token)))
        if not learner.reads:
            return found
        if tokens := int((batch.labels >= 0).sum()):
            found.append(("validation/{}/text", float(losses.text), tokens))
        if known := int(batch.grounding_known.sum()):
            found.append(("validation/{}/grounding", float(losses.grounding), known))
            off = (learner.place(states) - batch.grounding).abs()
            places = batch.grounding_known & (learner.unit != 1.0)
            if count := int(places.sum()):
                found.append(("error/{}/place_m", float(off[places].mean()), count))
        if batch.robot is not None and learner.expert is not None:
            found.append(("validation/{}/action", float(losses.action), len(batch.robot.rows)))
            states = states[batch.robot.rows]
            joint_rad, gripper_m, hand_m, missed = self._errors(learner.expert, states, batch.robot, samples, first)
            found.append(("error/{}/joint_rad", joint_rad, len(batch.robot.rows)))
            found.append(("error/{}/gripper_m", gripper_m, len(batch.robot.rows)))
            found.append(("error/{}/hand_m", hand_m, len(batch.robot.rows)))
            if missed:
                found.append(("error/{}/misses", float(np.mean(missed)), len(missed)))
        return found

    def _errors(
        self, expert: Expert, states: torch.Tensor, robot: ActionBatch, samples: Sequence[Sample], first: int
    ) -> tuple[float, float, float, list[bool]]:
        """Joints [rad], grippers [m] and hands [m] of a chunk sampled for each robot row, without a prefix; and misses.

        Mean absolute errors in the first half second, of the grasp points the mean distance; of each hand that closes
        whether it is beside, horizontally.
        """
        space, spec = self._stage.policy.space, self._stage.policy.spec.action
        noise = torch.randn(robot.actions[:, 0].shape, generator=torch.Generator().manual_seed(first))
        chunks = sample(
            expert,
            expert.condition(states),
            robot.state[:, 0],
            robot.age_s[:, 0],
            spec.noise_scale * noise.to(states.device),
            None,
            None,
            spec.euler_steps,
            torch.from_numpy(np.asarray(space.live)).to(states.device),
        )
        off: list[Float64] = []
        hands_m: list[float] = []
        missed: list[bool] = []
        for x, row in zip(chunks.cpu().numpy(), robot.rows.tolist(), strict=True):
            actions = samples[row].actions
            if actions is not None:
                anchor = actions.proprioception[0]
                rows, wanted = space.decode(x, anchor, anchor), actions.rows[0]
                off.append(np.abs(rows - wanted)[:ERROR_ROWS])
                apart = (state_slots(rows) - state_slots(wanted)).reshape(-1, 2, PER_ARM)[..., POSITION]
                hands_m.append(float(np.linalg.norm(apart[:ERROR_ROWS], axis=-1).mean()))
                missed += [
                    bool(np.linalg.norm(apart[row, arm, :2]) > MISS_M) for row, arm in closings(wanted, spec.period_s)
                ]
        mean = np.mean(off, axis=(0, 1))  # (14,)
        grippers = np.isin(np.arange(len(mean)), GRIPPERS)
        return float(mean[~grippers].mean()), float(mean[grippers].mean()), float(np.mean(hands_m)), missed


def closings(rows: Float64, period_s: float) -> list[tuple[int, int]]:
    """The (row, arm) where a hand begins to close, or goes on, from ``AIM_ROWS`` on in ``rows`` (H, 14)."""
    closing = np.diff(rows[AIM_ROWS:, GRIPPERS], axis=0) < -CLOSING_M_S * period_s
    return [(AIM_ROWS + int(closing[:, arm].argmax()), arm) for arm in (0, 1) if closing[:, arm].any()]
