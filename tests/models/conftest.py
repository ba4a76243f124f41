"""What all tests of the learned policy share."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.models.exports import CPU, acted, change
from tests.models.policies import an_intent, make, planner_spec
from tests.models.runs import config_of, record, run

from syvla.config import RigConfig
from syvla.errors import ConfigError
from syvla.messages import Intent
from syvla.runs import load_rig
from syvla_models import export_cli
from syvla_models.backends.choice import choose, open_backend


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "random"
    make(path, planner_spec())
    return path


@pytest.fixture
def rig() -> RigConfig:
    """The twin's."""
    return load_rig("twin")


@pytest.fixture
def intent(folder: Path) -> Intent:
    """Of that checkpoint."""
    return an_intent(folder)


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four demonstrations and twelve pictures with questions."""
    folder = tmp_path_factory.mktemp("data")
    for k in range(4):
        record(folder / f"{k}.mcap", 1.0 if k % 2 else -1.0)
    lines = []
    for k in range(12):
        Image.fromarray(np.full((32, 64, 3), 20 * k, np.uint8)).save(folder / f"{k}.png")
        bright = "bright" if k > 5 else "dark"
        question = {"question": "How bright is it?", "answer": f"It is {bright}.", "point": [0.02 * k, 0.2]}
        things = [{"name": "lamp", "point": [0.02 * k, 0.2], "place": [0.9 if k > 5 else 0.1, 0.5]}]
        line = {"image": f"{k}.png", "camera": "cam_high", "questions": [question], "things": things}
        lines.append(json.dumps(line))
    (folder / "scenes.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="package")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps of the stage pretrain, from nothing."""
    out = tmp_path_factory.mktemp("pretrained") / "run"
    assert run(config_of(data, "pretrain"), out)
    return out


@pytest.fixture(scope="package")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was exported, as if an episode had then been done with each backend as in torch."""
    pytest.importorskip("onnx")
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("exported") / "policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_cli, "OBSERVED_S", 2.0)
        assert export_cli.export(str(copy), CPU, episodes=0) == 1
    with pytest.raises(ConfigError, match=r"'openvino' was not accepted .*; no episodes were run"):
        open_backend(copy, "openvino", 1)
    assert choose(copy, "auto") == "eager"
    change(copy, acted)
    return copy


@pytest.fixture
def policy(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(exported, tmp_path / "policy")
