"""TensorRT engines: built for a GPU that is not here, kept where nobody else can write, refused without a driver."""

import os
from pathlib import Path

import msgspec
import onnx
import pytest
import torch

from syvla.errors import ConfigError, SyvlaError
from syvla_models.backends import engines, tensor_rt
from syvla_models.backends.choice import start
from syvla_models.backends.engines import EngineStore, build, library, shape_sha256, targets
from syvla_models.backends.exported import CONDITION_FILE, DENOISE_HALF_FILE, ENGINE_GRAPHS
from syvla_models.backends.graphs import write_graphs
from syvla_models.checkpoint import load_expert
from syvla_models.expert import TINY, Expert
from syvla_models.spec import SLOTS, ActionSpec

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
def graph(graphs: Path) -> bytes:
    return (graphs / CONDITION_FILE).read_bytes()


def test_the_graphs_of_a_robots_expert_are_built_too(tmp_path: Path) -> None:
    """It is told no way, so nothing of one goes from its first graph into the second."""
    torch.manual_seed(0)
    config = msgspec.structs.replace(TINY, intent_width=192, depth=1, aimed=False)
    action = ActionSpec(space="joint", offset=((0.0,) * SLOTS,), scale=((1.0,) * SLOTS,), euler_steps=1)
    write_graphs(tmp_path, Expert(config), action)
    for file in ENGINE_GRAPHS:
        assert build(trt, (tmp_path / file).read_bytes(), "SM89")[1:4] == b"trt"


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


@pytest.fixture(scope="module")
def other(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of the same expert with other weights."""
    path = tmp_path_factory.mktemp("other")
    expert, spec = load_expert(folder)
    with torch.no_grad():
        for parameter in (*expert.parameters(), *expert.standard.buffers()):
            parameter.add_(0.1)
    write_graphs(path, expert, spec.action)
    return path


def test_a_kept_engine_is_found_for_its_graph_and_card_alone(tmp_path: Path, graph: bytes, other: Path) -> None:
    store = EngineStore(tmp_path / "engines")
    assert store.find(graph, trt, "SM89") is None
    path = store.keep(graph, trt, "SM89", b"engine")
    assert store.find(graph, trt, "SM89") == (b"engine", None)
    assert store.find((other / CONDITION_FILE).read_bytes(), trt, "SM89") is None, "its weights cannot be changed"
    assert store.find(graph, trt, "SM120") is None
    assert path.stat().st_mode & 0o077 == 0
    part = path.with_suffix(f".{os.getpid()}.part")
    part.touch()  # of a process that was killed and had the same number, as in a container
    assert store.keep(graph, trt, "SM89", b"engine") == path
    part.unlink()
    assert not list(store.folder.glob("*.part"))


def test_an_engine_of_other_weights_is_to_be_given_those_of_this_checkpoint(
    tmp_path: Path, graph: bytes, other: Path
) -> None:
    store = EngineStore(tmp_path / "engines")
    store.keep(graph, trt, "SM89", b"refittable", refittable=True)
    assert store.find(graph, trt, "SM89") == (b"refittable", None)
    weights = (other / CONDITION_FILE).read_bytes()
    assert store.find(weights, trt, "SM89") == (b"refittable", weights)
    store.keep(weights, trt, "SM89", b"its own")
    assert store.find(weights, trt, "SM89") == (b"its own", None)


def test_only_its_weights_may_be_other(graphs: Path, other: Path, folder: Path, tmp_path: Path) -> None:
    shapes = {file: shape_sha256((graphs / file).read_bytes()) for file in ENGINE_GRAPHS}
    assert len(set(shapes.values())) == len(shapes)
    for file, shape in shapes.items():
        assert (other / file).read_bytes() != (graphs / file).read_bytes()
        assert shape_sha256((other / file).read_bytes()) == shape
        elsewhere = onnx.load(graphs / file)
        for node in elsewhere.graph.node:
            node.doc_string = "another line of another file"
            for entry in node.metadata_props:
                entry.value = "another line of another file"
        assert shape_sha256(elsewhere.SerializeToString()) == shape
    expert, spec = load_expert(folder)
    write_graphs(tmp_path, expert, msgspec.structs.replace(spec.action, euler_steps=spec.action.euler_steps + 1))
    assert shape_sha256((tmp_path / DENOISE_HALF_FILE).read_bytes()) != shapes[DENOISE_HALF_FILE]


def test_an_engine_whose_weights_can_be_changed_needs_a_gpu_to_be_built(graphs: Path) -> None:
    try:
        tensor_rt.gpu("tensorrt_rtx")
    except ConfigError:
        with pytest.raises(SyvlaError, match="built no engine for SM89"):
            build(trt, (graphs / CONDITION_FILE).read_bytes(), "SM89", refittable=True)
    else:
        pytest.skip("there is a GPU")


def test_an_engine_that_was_changed_is_not_loaded(tmp_path: Path, graph: bytes) -> None:
    store = EngineStore(tmp_path / "engines")
    path = store.keep(graph, trt, "SM89", b"engine")
    path.write_bytes(b"other!")
    with pytest.raises(ConfigError, match="is not the engine that was written there"):
        store.find(graph, trt, "SM89")


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_an_engine_that_others_could_have_written_is_not_loaded(tmp_path: Path, graph: bytes, mode: int) -> None:
    store = EngineStore(tmp_path / "engines")
    store.keep(graph, trt, "SM89", b"engine")
    store.folder.chmod(mode)
    with pytest.raises(ConfigError, match="nobody else may write"):
        store.find(graph, trt, "SM89")
    with pytest.raises(ConfigError, match="nobody else may write"):
        store.keep(graph, trt, "SM89", b"engine")


def test_an_engine_of_another_user_is_not_loaded(tmp_path: Path, graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EngineStore(tmp_path / "engines")
    store.keep(graph, trt, "SM89", b"engine")
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(ConfigError, match="must belong to this user"):
        store.find(graph, trt, "SM89")


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
