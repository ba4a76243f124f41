"""Mixed precision on a CPU: the same numbers, by the faster of torch's kernels."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

from syvla_models.train import precision
from syvla_models.train.precision import mixed_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def bfloat16_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that has it; any other computes the same, slowly."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)


def kernels(result: torch.Tensor) -> set[str]:
    """The names of what backward will run."""

    def walk(node: torch.autograd.graph.Node | None) -> Iterator[str]:
        if node is not None:
            yield node.name()
            for following, _ in node.next_functions:
                yield from walk(following)

    return set(walk(result.grad_fn))


def through(conv: nn.Conv3d, images: torch.Tensor, ours: bool) -> tuple[torch.Tensor, torch.Tensor, set[str]]:
    conv.weight.grad = None
    with mixed_precision(CPU, bfloat16=True) if ours else torch.autocast("cpu", torch.bfloat16):
        made = conv(images)
    made.float().square().sum().backward()
    assert conv.weight.grad is not None
    return made.detach().float(), conv.weight.grad.clone(), kernels(made)


@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_whose_kernel_is_its_whole_input_is_a_product(bias: bool) -> None:
    """The vision tower's patches: the convolution's backward took two fifths of a training step."""
    torch.manual_seed(0)
    conv, images = nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4), bias=bias), torch.randn(50, 3, 2, 4, 4)
    made, gradient, ran = through(conv, images, ours=True)
    expected, gradient_expected, ran_before = through(conv, images, ours=False)
    assert made.shape == (50, 8, 1, 1, 1)
    torch.testing.assert_close(made, expected, rtol=0.02, atol=0.02)
    assert float((gradient - gradient_expected).norm() / gradient_expected.norm()) < 0.01
    assert not any("Convolution" in name for name in ran)
    assert any("Convolution" in name for name in ran_before)


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({}, torch.ones(2, 4, 2, 5, 4)),
        ({"padding": (0, 1, 0)}, torch.ones(2, 4, 2, 4, 4)),
        ({"groups": 2}, torch.ones(2, 4, 2, 4, 4)),
    ],
)
def test_any_other_convolution_stays_one(options: dict[str, object], images: torch.Tensor) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(4, 6, (2, 4, 4), **options)  # type: ignore[arg-type]
    made, gradient, ran = through(conv, images, ours=True)
    expected, gradient_expected, _ = through(conv, images, ours=False)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(gradient, gradient_expected)
    assert any("Convolution" in name for name in ran)


def test_a_convolution_may_be_called_with_no_more_than_it_needs() -> None:
    weight, images = torch.ones(6, 4, 2, 4, 4), torch.ones(3, 4, 2, 4, 4)
    with mixed_precision(CPU, bfloat16=True):
        assert functional.conv3d(images, weight).flatten().tolist() == [128.0] * 18
        assert functional.conv3d(images, weight, padding=1).shape == (3, 6, 3, 3, 3)


def test_attention_alone_stays_in_float32_on_the_cpu_and_weights_always() -> None:
    layer = nn.Linear(8, 8)
    x = torch.randn(2, 3, 4, 8)
    with mixed_precision(CPU, bfloat16=True):
        y = layer(x)
        seen = functional.scaled_dot_product_attention(y, y, y)
        again = layer(seen)
    assert (y.dtype, seen.dtype, again.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    again.float().square().mean().backward()
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 0.0
    with mixed_precision(CPU, bfloat16=False):
        assert layer(x).dtype == torch.float32


def test_a_cpu_without_bfloat16_computes_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training once took fifteen times as long on such a machine, and nothing said why."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)
    with mixed_precision(CPU, bfloat16=True):
        assert functional.linear(torch.ones(2, 8), torch.ones(4, 8)).dtype == torch.float32
