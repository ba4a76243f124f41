"""One token after another without launching a kernel for each operation: the language model as a CUDA graph."""

import weakref
from collections.abc import Callable

import torch
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from syvla_models.language import Cache, through

WARM_UP = 3  # steps before the capture, in which kernels are chosen and memory is taken
Choose = Callable[[torch.Tensor], torch.Tensor]


class Decoder:
    """One token after another over a cache of its own, at addresses and of shapes that never change.

    On a GPU a step is captured once as a CUDA graph and replayed from then on: of a token's time at batch 1 most is
    otherwise spent on launching kernels.

    Args:
        model: the language model.
        choose: what comes after a hidden state: (1, 1, D) to (1,).
        capacity: of the cache, in tokens.
    """

    def __init__(self, model: Qwen2_5_VLTextModel, choose: Choose, capacity: int) -> None:
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

        return self._choose(through(self._model, self._given, cos, sin, attend))


class Lender:
    """Lends one decoder, made anew where a longer one is needed, to one borrower at a time, as long as that one lives.

    It has no model of its own, so that a planner and its copies stay apart.
    """

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._borrower: weakref.ref[object] | None = None  # whose sequence is in it

    def lend(self, borrower: object, model: Qwen2_5_VLTextModel, choose: Choose, capacity: int) -> Decoder | None:
        """One of ``capacity`` tokens or more, see :class:`Decoder`; None while another borrower has it."""
        if self._borrower is not None and self._borrower() is not None:
            return None
        if self._decoder is None or self._decoder.capacity < capacity:
            self._decoder = Decoder(model, choose, capacity)
        self._borrower = weakref.ref(borrower)
        return self._decoder
