"""The least that a chunk of an expert can take on this machine."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from syvla_models.backends.eager import EagerBackend
from syvla_models.backends.exported import Probe
from syvla_models.expert import Expert
from syvla_models.spec import ActionSpec


class Floors(NamedTuple):
    """The least that a chunk can take [ms]: every weight read once a step, and every product made."""

    bandwidth_ms: float
    arithmetic_ms: float


def measured_floors(expert: Expert, action: ActionSpec, probe: Probe, threads: int, *, on_gpu: bool) -> Floors:
    """Of ``expert``, in float32 on a CPU, in float16 on a GPU."""
    backend = EagerBackend(expert, action, threads)
    conditioned = backend.condition(probe.query_states)
    with FlopCounterMode(display=False) as counter:
        backend.chunk(conditioned, probe.inputs)
    each_step = sum(p.numel() for layer in expert.layers for p in layer.parameters()) * (2 if on_gpu else 4)
    bytes_per_s, flops_per_s = _rates(on_gpu=on_gpu)
    if on_gpu:
        torch.cuda.empty_cache()  # it is wanted by other processes
    return Floors(1e3 * action.euler_steps * each_step / bytes_per_s, 1e3 * counter.get_total_flops() / flops_per_s)


def _rates(*, on_gpu: bool) -> tuple[float, float]:
    """Bytes read and operations done in a second."""
    device, dtype = ("cuda", torch.float16) if on_gpu else ("cpu", torch.float32)
    count, side = (1 << 30, 8192) if on_gpu else (1 << 29, 1536)  # bytes, rows: more than any cache holds
    block, square = torch.ones(count // 4, device=device), torch.ones(side, side, device=device, dtype=dtype)
    read_s = min(_timed(lambda: float(block.sum())) for _ in range(5))
    product_s = min(_timed(lambda: float((square @ square)[0, 0])) for _ in range(5))
    return count / read_s, 2.0 * side**3 / product_s


def _timed(work: Callable[[], float]) -> float:
    """What ``work`` gives is a number, so that a GPU is waited for."""
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s
