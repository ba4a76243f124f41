"""An expert whose sampling loop is computed in fewer bits, while what is summed up over the steps stays in float32."""

import copy

import torch
from torch import Tensor, nn

from syvla_models.expert import Context, Expert, Modulation


class Rounded(nn.Module):
    """Stands in the place of an expert in :func:`~syvla_models.flow.denoised`.

    The chunk goes in and its velocity comes out in float32; the layers in between are in ``dtype``. What does not
    change from step to step (modulation, context) is computed exactly and rounded once.
    """

    def __init__(self, expert: Expert, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = expert.config
        self.exact = expert
        self.inner = copy.deepcopy(expert).to(dtype)
        self.dtype = dtype

    def modulation(self, tau: Tensor) -> Modulation:
        """As an expert's, rounded."""
        return Modulation(*(each.to(self.dtype) for each in self.exact.modulation(tau)))

    def denoise(self, x: Tensor, modulation: Modulation, context: Context) -> Tensor:
        """The velocity (B, H, slots), float32."""
        rounded = Context(*(each.to(self.dtype) for each in context))
        return self.inner.denoise(x.to(self.dtype), modulation, rounded).float()
