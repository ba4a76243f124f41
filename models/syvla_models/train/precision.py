"""Mixed precision for training: bfloat16 arithmetic, where there is such, on float32 weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16; a CPU that cannot takes 28 times as long for a product as in float32."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - asked nowhere else


@contextmanager
def mixed_precision(device: torch.device, *, bfloat16: bool) -> Iterator[None]:
    """Autocast to bfloat16 inside, if that is wanted and ``device`` has it.

    On the CPU all but attention is, and convolutions of whole images are products.
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and has_bfloat16(device)):
        if device.type == "cpu":
            with _CpuKernels():
                yield
        else:
            yield


class _CpuKernels(TorchFunctionMode):
    """What torch's own kernels take much longer for on the CPU, done otherwise. Measured with torch 2.13, one thread.

    Attention in float32, because its backward in bfloat16 takes five times as long: a chunk of 50 rows by 6 heads of
    32, batch 96, forward and backward 85 ms in bfloat16, 22 ms in float32. A convolution whose kernel is as large as
    its input, as in the vision tower's patches, is a matrix product, and takes 400 ms as a convolution of 1280
    patches, 5 ms as a product: two fifths of a training step.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query, key, value = (tensor.float() for tensor in args[:3])
            with torch.autocast("cpu", enabled=False):
                return func(query, key, value, *args[3:], **kwargs)
        if func is functional.conv3d and not kwargs and _covers(*args):
            patches, weight, *bias = args[:3]
            return functional.linear(patches.flatten(1), weight.flatten(1), *bias)[..., None, None, None]
        return func(*args, **kwargs)


def _covers(
    patches: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: object = (1, 1, 1),
    padding: object = (0, 0, 0),
    dilation: object = (1, 1, 1),
    groups: int = 1,
) -> bool:
    """Whether the kernel is as large as the input, so that nothing is left to slide over."""
    return patches.shape[1:] == weight.shape[1:] and padding == (0, 0, 0) and dilation == (1, 1, 1) and groups == 1
