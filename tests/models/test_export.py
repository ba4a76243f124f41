"""``syvla-export``: what it finds out, and what stays where it does not come to its end."""

from pathlib import Path

import numpy as np
import pytest
from tests.models.exports import CPU, acted_by

from syvla.message import Float32
from syvla_models import export_cli
from syvla_models.backends import choice
from syvla_models.backends.choice import open_backend
from syvla_models.backends.eager import open_eager
from syvla_models.backends.exported import (
    DENOISE_HALF_FILE,
    EXPORT_FILE,
    FOLDER,
    GRAPHS,
    PROBE_FILE,
    Tried,
    load_export,
    load_probes,
)
from syvla_models.backends.protocol import ChunkInputs, Conditioned
from syvla_models.spec import load_spec

pytest.importorskip("onnx")


def quickly(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export again with the graphs that are there, after little was observed."""
    graphs = {name: (policy / FOLDER / name).read_bytes() for name in (*GRAPHS, DENOISE_HALF_FILE)}

    def write(folder: Path, *_: object) -> None:
        for name, graph in graphs.items():
            (folder / name).write_bytes(graph)

    monkeypatch.setattr(export_cli, "write_graphs", write)
    monkeypatch.setattr(export_cli, "OBSERVED_S", 0.5)


def test_it_is_exported_with_what_was_found_out(exported: Path) -> None:
    export = load_export(exported, load_spec(exported))
    assert set(export.tried) == set(CPU)
    for tried in export.tried.values():
        assert tried.accepted
        assert 0.0 < tried.parity.worst_rad < 1e-4
        assert tried.observations == 64
        assert 0.0 < tried.median_ms < 1e3
    probes = load_probes(exported / FOLDER / PROBE_FILE)
    assert len(probes) == export_cli.PROBES
    eager = open_eager(exported, 1)
    for each in probes:
        again = eager.chunk(eager.condition(each.query_states), each.inputs)
        assert np.allclose(again, each.wanted, atol=1e-6)


def test_an_export_that_is_cut_short_leaves_the_one_of_before(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(made: Path, *_: object) -> dict[str, Tried]:
        assert open_backend(made, "onnxruntime", 1).name == "onnxruntime", "what is near enough may act to be tried"
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in (policy / FOLDER).iterdir()}
    quickly(policy, monkeypatch)
    monkeypatch.setattr(export_cli, "_act", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_cli.export(str(policy), ("onnxruntime",), episodes=1)
    assert {path.name: path.read_bytes() for path in (policy / FOLDER).iterdir()} == before


def test_a_backend_that_fails_on_its_first_chunk_does_not_end_an_export(
    policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        name = "onnxruntime"

        def condition(self, query_states: Float32) -> Conditioned:
            return ()

        def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
            raise TypeError("4 inputs are wanted")

    started = choice.start
    monkeypatch.setattr(choice, "start", lambda name, *rest: Failing() if name == CPU[0] else started(name, *rest))
    quickly(policy, monkeypatch)
    monkeypatch.setattr(export_cli, "_act", lambda made, tried, *_: acted_by(tried))
    assert export_cli.export(str(policy), CPU, episodes=1) == 0
    assert "onnxruntime: does not run here: 4 inputs are wanted" in capsys.readouterr().out
    assert set(load_export(policy, load_spec(policy)).tried) == {"openvino"}


def test_an_export_that_accepts_nothing_leaves_one_that_does(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only chunks were to be compared, and the robot's fastest backend was no longer accepted."""
    quickly(policy, monkeypatch)
    before = (policy / FOLDER / EXPORT_FILE).read_bytes()
    assert export_cli.export(str(policy), ("onnxruntime",), episodes=0) == 1
    assert (policy / FOLDER / EXPORT_FILE).read_bytes() == before
    assert "the export of before stays, it accepts onnxruntime, openvino" in capsys.readouterr().out
    assert {path.name for path in policy.iterdir() if path.is_dir()} == {FOLDER}
    elsewhere = (policy / FOLDER).rename(tmp_path / "elsewhere")
    (policy / FOLDER).symlink_to(elsewhere)
    monkeypatch.setattr(export_cli, "_act", lambda made, tried, *_: acted_by(tried))
    for _ in range(2):
        assert export_cli.export(str(policy), ("onnxruntime",), episodes=1) == 0
    assert (policy / FOLDER).is_symlink()
    assert set(load_export(policy, load_spec(policy)).tried) == {"onnxruntime"}


def test_a_backend_that_fails_in_an_episode_does_not_end_an_export(
    policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def done(name: str, *_: object) -> int:
        if name == "onnxruntime":
            raise RuntimeError("out of memory")
        return 1

    quickly(policy, monkeypatch)
    monkeypatch.setattr(export_cli, "_done", done)
    assert export_cli.export(str(policy), CPU, episodes=1) == 0
    assert "onnxruntime: its episodes do not run here: out of memory" in capsys.readouterr().out
    tried = load_export(policy, load_spec(policy)).tried
    assert {name: found.accepted for name, found in tried.items()} == {"onnxruntime": False, "openvino": True}


def test_the_version_of_every_backend_that_is_here_can_be_told() -> None:
    """A distribution may have another name than its package: TensorRT-RTX had ended an export with a traceback."""
    for name in filter(choice.installed, choice.BACKENDS):
        assert export_cli.version(name)[0].isdigit()
