"""What the tokens of an image are asked for, in training only: what each shows, and whether it is what was asked about.

Learned from one named place a picture, a small planner takes long to see anything; all things of a picture, each where
it is, teach it in a tenth of the steps.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from syvla_models.flow import NEAR_M, distance
from syvla_models.planner import SyvlaPlanner
from syvla_models.train.batch import ThingBatch

PLACE_UNIT_M = 0.1
NAMES_WEIGHT = 40.0  # of an image's tokens, few show anything
ASKED_WEIGHT = 40.0  # and one or two what is asked about
_RARE = -5.0  # the logarithm of how many things of a name an image token shows, before anything is learned


class Sight(nn.Module):
    """The heads on image tokens.

    What a token shows is asked of the vision tower, before the language model: asked of the last hidden states, it
    was learned there as well, where no word can look any more, and thoughts went on without looking. The words' own
    embeddings are the classifier, so that what the tower says of a red cube on the left lies where the language model
    has those words: to look for a named thing is then one comparison, the same for all names, and what is found can
    be said as it is.

    What was asked about is asked of the language model half way up. The instruction is read before the image, so a
    token can tell for itself; the words and feature queries after it then need only look, in the layers that are left.

    Args:
        planner: Whose words the names are made of.
        names: What things in the images may be called.
    """

    words: torch.Tensor
    shares: torch.Tensor

    def __init__(self, planner: SyvlaPlanner, names: Sequence[str]) -> None:
        super().__init__()
        width = planner.spec.hidden_size
        self.place = nn.Linear(width, 2)  # x and y [10 cm] of what has its middle at a token
        self.count = nn.Parameter(torch.full((len(names),), _RARE))
        self.about = nn.Linear(width, 1)
        ids = [planner.encode(f" {name}") for name in names]
        words = torch.zeros(len(names), max(map(len, ids)), dtype=torch.int64)
        shares = torch.zeros(words.shape)
        for row, found in enumerate(ids):
            words[row, : len(found)] = torch.tensor(found)
            shares[row, : len(found)] = 1.0 / len(found)
        self.register_buffer("words", words, persistent=False)  # (names, W)
        self.register_buffer("shares", shares, persistent=False)  # (names, W), 0 where a name has no more words

    def forward(
        self, features: torch.Tensor, halfway: torch.Tensor, embeddings: nn.Module, things: ThingBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of what is shown and of what is asked about.

        Args:
            features: What the vision tower made of the image tokens (T, D).
            halfway: The same tokens half way through the language model (T, D).
            embeddings: The language model's, from ids to vectors.
            things: The labels.
        """
        return self._shown(features, embeddings, things), self._asked(halfway, things)

    def _shown(self, features: torch.Tensor, embeddings: nn.Module, things: ThingBatch) -> torch.Tensor:
        words = (embeddings(self.words) * self.shares[..., None]).sum(1)
        log_counts = (features @ functional.normalize(words, dim=-1).T + self.count).float()
        counts = torch.zeros_like(log_counts)
        ones = torch.ones(len(things.token), device=counts.device)
        counts.index_put_((things.token, things.name), ones, accumulate=True)
        names = functional.poisson_nll_loss(log_counts[things.labelled], counts[things.labelled])
        off = self.place(features).float()[things.token] - things.point_m / PLACE_UNIT_M
        loss: torch.Tensor = distance(off, NEAR_M / PLACE_UNIT_M).mean() + NAMES_WEIGHT * names
        return loss

    def _asked(self, halfway: torch.Tensor, things: ThingBatch) -> torch.Tensor:
        if not things.pointed.any():
            return halfway.new_zeros(())
        wanted = torch.zeros_like(things.pointed, dtype=torch.float32)
        wanted[things.token[things.asked]] = 1.0
        logits = self.about(halfway).float()[:, 0]
        loss: torch.Tensor = functional.binary_cross_entropy_with_logits(logits[things.pointed], wanted[things.pointed])
        return ASKED_WEIGHT * loss
