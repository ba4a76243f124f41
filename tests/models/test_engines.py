"""TensorRT engines: built for a GPU that is not here, kept where nobody else can write, refused without a driver."""

import os
from pathlib import Path

import pytest

from syvla.errors import ConfigError, SyvlaError
from syvla_models.backends import engines, tensor_rt
from syvla_models.backends.choice import start
from syvla_models.backends.engines import EngineStore, build, library, targets
from syvla_models.backends.exported import DENOISE_HALF_FILE, ENGINE_GRAPHS
from syvla_models.backends.graphs import write_graphs
from syvla_models.checkpoint import load_expert

pytest.importorskip("onnx")
trt = pytest.importorskip(engines.RTX)


@pytest.fixture(scope="module")
def graphs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of a small expert."""
    path = tmp_path_factory.mktemp("graphs")
    expert, spec = load_expert(folder)
    write_graphs(path, expert, spec.action)
    return path


@pytest.fixture(scope="module")
def engine(graphs: Path) -> bytes:
    return build(trt, (graphs / DENOISE_HALF_FILE).read_bytes(), "SM89")


@pytest.mark.parametrize("file", ENGINE_GRAPHS)
def test_every_graph_is_built_for_a_card_that_is_not_here(graphs: Path, file: str) -> None:
    graph = (graphs / file).read_bytes()
    made = build(trt, graph, "SM89")
    assert made[1:4] == b"trt"
    assert len(made) > len(graph) / 2


def test_what_cannot_be_built_is_refused(graphs: Path) -> None:
    graph = (graphs / DENOISE_HALF_FILE).read_bytes()
    with pytest.raises(ConfigError, match=r"builds for .*SM89.*, not 'SM90'"):
        build(trt, graph, "SM90")
    with pytest.raises(SyvlaError):
        build(trt, graph[: len(graph) // 2], "SM89")


def test_a_kept_engine_is_found_for_its_graph_and_card_alone(tmp_path: Path, engine: bytes) -> None:
    store = EngineStore(tmp_path / "engines")
    assert store.find(b"graph", trt, "SM89") is None
    path = store.keep(b"graph", trt, "SM89", engine)
    assert store.find(b"graph", trt, "SM89") == engine
    assert store.find(b"other weights", trt, "SM89") is None
    assert store.find(b"graph", trt, "SM120") is None
    assert path.stat().st_mode & 0o077 == 0
    assert not list(store.folder.glob("*.part"))


def test_an_engine_that_was_changed_is_not_loaded(tmp_path: Path, engine: bytes) -> None:
    store = EngineStore(tmp_path / "engines")
    path = store.keep(b"graph", trt, "SM89", engine)
    path.write_bytes(engine[:-1] + bytes([engine[-1] ^ 1]))
    with pytest.raises(ConfigError, match="is not the engine that was written there"):
        store.find(b"graph", trt, "SM89")


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_an_engine_that_others_could_have_written_is_not_loaded(tmp_path: Path, engine: bytes, mode: int) -> None:
    store = EngineStore(tmp_path / "engines")
    store.keep(b"graph", trt, "SM89", engine)
    store.folder.chmod(mode)
    with pytest.raises(ConfigError, match="nobody else may write"):
        store.find(b"graph", trt, "SM89")
    with pytest.raises(ConfigError, match="nobody else may write"):
        store.keep(b"other", trt, "SM89", engine)


def test_an_engine_of_another_user_is_not_loaded(
    tmp_path: Path, engine: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EngineStore(tmp_path / "engines")
    store.keep(b"graph", trt, "SM89", engine)
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(ConfigError, match="must belong to this user"):
        store.find(b"graph", trt, "SM89")


def test_a_machine_without_a_driver_refuses_clearly(folder: Path) -> None:
    try:
        tensor_rt.gpu("tensorrt_rtx")
    except ConfigError:
        with pytest.raises(ConfigError, match="needs an NVIDIA GPU and its driver; CUDA says"):
            start("tensorrt_rtx", folder, 1)
    else:
        pytest.skip("there is a GPU")


def test_a_library_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no_such_library cannot be loaded"):
        library("no_such_library")
    assert "SM89" in targets(trt)
