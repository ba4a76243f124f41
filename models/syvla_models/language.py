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
WARM_UP = 3  # steps before the capture, in which kernels are chosen and memory is taken


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

    hidden = _through(model, embeddings, cos, sin, attend)
    cache.length = end
    return hidden


class Decoder:
    """One token after another over a cache of its own, at addresses and of shapes that never change.

    On a GPU a step is captured once as a CUDA graph and replayed from then on: of a token's time at batch 1 most is
    otherwise spent on launching kernels.

    Args:
        model: the language model.
        choose: what comes after a hidden state: (1, 1, D) to (1,).
        capacity: of the cache, in tokens.
    """

    def __init__(
        self, model: Qwen2_5_VLTextModel, choose: Callable[[torch.Tensor], torch.Tensor], capacity: int
    ) -> None:
        self._model, self._choose = model, choose
        self.cache = Cache(model, capacity)
        self.cache.keys.zero_()  # what is masked counts 0 times, and 0 times NaN is NaN
        self.cache.values.zero_()
        weight = model.norm.weight
        width = self.cache.keys.shape[-1]
        self._cos, self._sin = (weight.new_zeros(1, capacity, width) for _ in range(2))
        self._columns = torch.arange(capacity, device=weight.device)
        self._place = torch.zeros(1, dtype=torch.int64, device=weight.device)
        self._given = weight.new_zeros(1, 1, len(weight))
        self._next: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def capacity(self) -> int:
        """In tokens."""
        return len(self._columns)

    def begin(self, read: Cache, rotations: tuple[torch.Tensor, torch.Tensor]) -> Cache:
        """A sequence that begins with what was ``read``, with ``rotations`` (1, L, W), L at most the capacity."""
        for own, given in zip((self._cos, self._sin), rotations, strict=True):
            own[:, : given.shape[1]] = given
        for own, given in ((self.cache.keys, read.keys), (self.cache.values, read.values)):
            own[..., : read.length, :] = given[..., : read.length, :]
        self.cache.length = read.length
        return self.cache

    @torch.inference_mode()
    def step(self, embedding: torch.Tensor) -> int:
        """Append one token, ``embedding`` (1, D), to the sequence; the one that comes after it."""
        self._given.copy_(embedding[None])
        self._place.fill_(self.cache.length)
        if self._given.is_cuda:
            if self._graph is None:
                self._capture()
            assert self._graph is not None  # noqa: S101 - narrows the type
            self._graph.replay()
        else:
            self._next = self._compute()
        self.cache.length += 1
        assert self._next is not None  # noqa: S101 - narrows the type
        return int(self._next)

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):  # each writes the same into the cache
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._next = self._compute()

    def _compute(self) -> torch.Tensor:
        place = self._place
        cos, sin = (rotation.index_select(1, place) for rotation in (self._cos, self._sin))
        mask = (self._columns <= place)[None, None, None]

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.cache.keys[index], self.cache.values[index]
            keys.index_copy_(2, place, k)
            values.index_copy_(2, place, v)
            return functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)

        return self._choose(_through(self._model, self._given, cos, sin, attend))


def _through(
    model: Qwen2_5_VLTextModel, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend
) -> torch.Tensor:
    """The final hidden states at ``x`` (1, T, D)."""
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
