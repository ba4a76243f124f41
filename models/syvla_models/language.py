"""Qwen2.5-VL's language model over a preallocated cache, one sequence at a time: what decoding costs and no more.

The layers are the model's own modules, called without the frame of transformers around them (masks, cache objects,
output records), which on a small model costs more than the arithmetic. Equality with transformers' own forward is
held by a test.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel, apply_rotary_pos_emb

# How the queries (1, heads, T, W) of layer i see keys and values, the new ones (1, heads, T, W) among them.
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Cache:
    """Keys and values of one sequence: (layers, key-value heads, capacity, head dimension). Rewind by ``length``."""

    def __init__(self, model: Qwen2_5_VLTextModel, capacity: int) -> None:
        attention = model.layers[0].self_attn
        shape = (len(model.layers), 1, attention.num_key_value_heads, capacity, attention.head_dim)
        weight = attention.k_proj.weight
        self.keys = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def copy(self, capacity: int) -> "Cache":
        """What is in it so far, with another ``capacity``."""
        copied = Cache.__new__(Cache)
        layers, one, heads, _, width = self.keys.shape
        copied.keys = self.keys.new_empty(layers, one, heads, capacity, width)
        copied.values = torch.empty_like(copied.keys)
        copied.keys[..., : self.length, :] = self.keys[..., : self.length, :]
        copied.values[..., : self.length, :] = self.values[..., : self.length, :]
        copied.length = self.length
        return copied


def rotary(model: Qwen2_5_VLTextModel, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (1, L, head dimension) of M-RoPE positions (3, 1, L)."""
    cos, sin = model.rotary_emb(model.norm.weight, position_ids)
    return cos, sin


def extend(
    model: Qwen2_5_VLTextModel,
    cache: Cache,
    embeddings: torch.Tensor,
    rotations: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Append ``embeddings`` (1, T, D) to the cached sequence; the final hidden states (1, T, D) at them.

    ``rotations`` are those of the whole sequence, see ``rotary``. Everything cached behind ``cache.length`` is
    overwritten, so setting ``length`` back is all that a rewind takes.
    """
    start, count = cache.length, embeddings.shape[1]
    end = start + count
    cos, sin = (r[:, start:end] for r in rotations)
    mask = None
    if start and count > 1:  # row t sees the cache and the new tokens up to itself
        mask = torch.ones(count, end, dtype=torch.bool, device=embeddings.device).tril_(start)

    def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys, values = cache.keys[index], cache.values[index]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        return functional.scaled_dot_product_attention(
            q,
            keys[:, :, :end],
            values[:, :, :end],
            attn_mask=mask,
            is_causal=mask is None and count > 1,
            enable_gqa=True,
        )

    hidden = through(model, embeddings, cos, sin, attend)
    cache.length = end
    return hidden


def through(
    model: Qwen2_5_VLTextModel, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend
) -> torch.Tensor:
    """The final hidden states at ``x`` (1, T, D), whose rotations are ``cos`` and ``sin`` (1, T, W)."""
    count = x.shape[1]
    for index, layer in enumerate(model.layers):
        attention = layer.self_attn
        h = _norm(layer.input_layernorm, x)
        heads = (1, count, -1, attention.head_dim)
        q = attention.q_proj(h).view(heads).transpose(1, 2)
        k = attention.k_proj(h).view(heads).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        seen = attend(index, q, k, attention.v_proj(h).view(heads).transpose(1, 2))
        x = x + attention.o_proj(seen.transpose(1, 2).reshape(1, count, -1))
        x = x + layer.mlp(_norm(layer.post_attention_layernorm, x))
    return _norm(model.norm, x)


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm in one kernel; ``module`` is a Qwen2_5_VLRMSNorm."""
    return functional.rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)
