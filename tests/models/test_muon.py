"""Muon is torch's own, and the same however many processes share its work."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from syvla_models.train import muon
from syvla_models.train.muon import Muon, orthogonal, shares

SHAPES = ((6, 4), (4, 12), (5, 5), (12, 4), (3, 9))
_SHARED = """
import sys, torch
from torch import distributed, nn
from syvla_models.train.muon import Muon
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
parameters = [nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (4, 12), (5, 5), (12, 4), (3, 9))]
muon = Muon([{"params": parameters}], lr=0.01)
for _ in range(3):
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape)
    muon.step()
print(float(sum((k + 1) * p.double().sum() for k, p in enumerate(parameters))))
distributed.destroy_process_group()
"""


def stepped(make: object, steps: int = 3) -> list[nn.Parameter]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimiser = make(parameters)  # type: ignore[operator]
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape)
        optimiser.step()
    return parameters


def test_it_is_torch_s_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_bfloat16", lambda _: True)  # torch's always computes in it
    ours = stepped(lambda p: Muon([{"params": p, "weight_decay": 0.1}], lr=0.01))
    theirs = stepped(lambda p: torch.optim.Muon(p, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_singular_values_are_near_one() -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert float(values.min()) > 0.4
        assert float(values.max()) < 1.3


def test_a_matrix_without_a_gradient_stays() -> None:
    parameter = nn.Parameter(torch.ones(3, 3))
    Muon([{"params": [parameter]}], lr=0.1).step()
    assert torch.equal(parameter, torch.ones(3, 3))


def test_every_matrix_is_someone_s_and_the_work_is_even() -> None:
    shapes = [(576, 192)] * 8 + [(192, 192)] * 8 + [(512, 512)]
    divided = shares(shapes, 3)
    assert sorted(index for part in divided for index in part) == list(range(len(shapes)))
    loads = [sum(min(shapes[i]) ** 2 * (2 * max(shapes[i]) + min(shapes[i])) for i in part) for part in divided]
    assert max(loads) < 1.5 * min(loads)


def test_two_processes_make_the_step_of_one(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", _SHARED, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    said = [float(process.communicate(timeout=120)[0]) for process in started]
    alone = stepped(lambda p: Muon([{"params": p}], lr=0.01))
    expected = float(sum((k + 1) * p.detach().double().sum() for k, p in enumerate(alone)))
    assert said == pytest.approx([expected, expected], rel=1e-5)
