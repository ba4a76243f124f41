"""TensorRT engines: built from an exported expert for one kind of GPU, and kept in a folder of the user's own.

``tensorrt`` (data-centre and Jetson GPUs) and ``tensorrt_rtx`` (the RTX cards of robot PCs) have the same interface;
the second also builds for a GPU that is not here. An engine is a program: it is loaded only from a folder that belongs
to this user and that nobody else can write to, and only if it is what was written there. One that was built where its
GPU is serves every checkpoint whose graphs differ in their weights alone: it is given the others.
"""

import hashlib
import importlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from syvla.errors import ConfigError, SyvlaError
from syvla_models.spec import Section, load_json, save_json

# Types of initialisers that are weights; whole numbers and booleans are axes, shapes and choices.
_WEIGHTS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
STORE = Path(".cache") / "syvla" / "engines"  # in the user's home
RTX = "tensorrt_rtx_bindings"
HERE = "CURRENT"  # the GPU of this machine


class _Kept(Section, frozen=True):
    """What lies beside an engine."""

    sha256: str
    graph_sha256: str  # whose weights are in it
    package: str
    version: str
    target: str


class Engine(NamedTuple):
    """A serialised engine, and the graph whose weights it is still to be given; None: it has them."""

    plan: bytes
    refit: bytes | None


class EngineStore:
    """Engines by what they were made from: the graph, its weights only if they stay; the library's version; the GPU."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = Path.home() / STORE if folder is None else folder

    def find(self, graph: bytes, trt: Any, target: str) -> Engine | None:
        """The engine; None if there is none, ConfigError if it cannot be trusted."""
        path = self._path(graph, trt, target, refittable=False)
        if not path.is_file():
            path = self._path(graph, trt, target, refittable=True)
        if not path.is_file():
            return None
        self._check_owned(self.folder)
        self._check_owned(path)
        plan = path.read_bytes()
        kept = load_json(path.with_suffix(".json"), _Kept)
        if kept.sha256 != hashlib.sha256(plan).hexdigest():
            raise ConfigError(f"{path} is not the engine that was written there; remove it, and it is built again")
        return Engine(plan, None if kept.graph_sha256 == hashlib.sha256(graph).hexdigest() else graph)

    def keep(self, graph: bytes, trt: Any, target: str, plan: bytes, *, refittable: bool = False) -> Path:
        """Write the engine ``plan`` with the weights of ``graph``, which can be changed if ``refittable``; the path."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._check_owned(self.folder)
        path = self._path(graph, trt, target, refittable=refittable)
        kept = _Kept(
            sha256=hashlib.sha256(plan).hexdigest(),
            graph_sha256=hashlib.sha256(graph).hexdigest(),
            package=trt.__name__,
            version=trt.__version__,
            target=target,
        )
        descriptor, part = tempfile.mkstemp(dir=self.folder, prefix=path.stem, suffix=".part")  # for this user alone
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(plan)
            save_json(path.with_suffix(".json"), kept)
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)
        return path

    def _path(self, graph: bytes, trt: Any, target: str, *, refittable: bool) -> Path:
        kind, digest = ("shape", shape_sha256(graph)) if refittable else ("graph", hashlib.sha256(graph).hexdigest())
        made_of = msgspec.json.encode((kind, digest, trt.__name__, trt.__version__, target))
        return self.folder / f"{hashlib.sha256(made_of).hexdigest()[:32]}.engine"

    @staticmethod
    def _check_owned(path: Path) -> None:
        found = path.lstat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if found.st_uid != os.getuid() or shared or stat.S_ISLNK(found.st_mode):
            raise ConfigError(f"{path} must belong to this user, and nobody else may write to it: engines are programs")


def shape_sha256(graph: bytes) -> str:
    """The digest of an ONNX graph without its weights, and without where in which source it was written down.

    Of two checkpoints that only training tells apart it is the same. ConfigError where ONNX is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError("onnx is missing; engines need: pip install 'syvla[tensorrt]'") from error
    model = onnx.load_from_string(graph)
    weights = {onnx.TensorProto.DataType.Value(name) for name in _WEIGHTS}
    for tensor in model.graph.initializer:
        if tensor.data_type in weights:
            for values in ("raw_data", "float_data", "int32_data", "double_data"):
                tensor.ClearField(values)
    body = model.graph
    for part in (model, body, *body.node, *body.value_info, *body.initializer, *body.input, *body.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def library(package: str) -> Any:
    """TensorRT by the name of its package; ConfigError where its libraries do not load."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:
        raise ConfigError(f"{package} cannot be loaded: {error}") from error


def targets(trt: Any) -> tuple[str, ...]:
    """The GPUs that engines can be built for without having one; none for the data-centre's library."""
    capabilities = getattr(trt, "ComputeCapability", None)
    names = () if capabilities is None else capabilities.__members__
    return tuple(sorted(name for name in names if name.startswith("SM")))


def build(trt: Any, graph: bytes, target: str = HERE, *, refittable: bool = False) -> bytes:
    """The engine of one ONNX graph, whose types are taken as they are.

    One whose weights can be changed is only built where there is a GPU.

    Raises:
        ConfigError: there is no such target.
        SyvlaError: TensorRT does not take the graph.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise SyvlaError(f"{trt.__name__}: {'; '.join(parser.get_error(i).desc() for i in range(parser.num_errors))}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # a metre in it has no millimetres
    if refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    if target != HERE:
        known = targets(trt)
        if target not in known:
            raise ConfigError(f"{trt.__name__} builds for {', '.join(known) or 'the GPU that is here'}, not {target!r}")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SyvlaError(f"{trt.__name__} {trt.__version__} built no engine for {target}")
    return bytes(engine)


def refit(trt: Any, engine: Any, graph: bytes) -> None:
    """Give a deserialised ``engine`` the weights of ``graph``; SyvlaError if it does not take every one of them.

    Not run on a GPU yet; whatever comes of it is held against the probes of the export.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    given = parser.refit_from_bytes(graph)
    missing = refitter.get_missing_weights()
    if not given or missing or not refitter.refit_cuda_engine():
        why = [parser.get_error(i).desc() for i in range(parser.num_errors)] + [
            f"{name} is missing" for name in missing
        ]
        raise SyvlaError(f"{trt.__name__}: an engine does not take this checkpoint's weights: {'; '.join(why)}")
