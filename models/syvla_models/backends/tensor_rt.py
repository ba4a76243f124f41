"""The exported expert in TensorRT. It needs no torch: CUDA is spoken to by NVIDIA's own bindings.

Not run on a GPU yet: engines have been built for SM89 and read back, and a machine without a driver refuses.
"""

import ctypes
import logging
import math
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from syvla.errors import ConfigError, SyvlaError
from syvla.message import Array, Float32
from syvla_models.backends import engines
from syvla_models.backends.exported import ENGINE_GRAPHS, FOLDER
from syvla_models.backends.protocol import ChunkInputs, Conditioned

_log = logging.getLogger(__name__)
WARM_UP = 3  # runs before the capture, in which kernels are compiled and chosen


def open_tensorrt(folder: Path, threads: int) -> "TensorRtBackend":
    """The expert of the checkpoint ``folder`` on a data-centre's or a Jetson's GPU, the sampling loop in float16."""
    return _opened("tensorrt", "tensorrt", folder)


def open_tensorrt_rtx(folder: Path, threads: int) -> "TensorRtBackend":
    """The same on an RTX card."""
    return _opened("tensorrt_rtx", engines.RTX, folder)


def _opened(name: str, package: str, folder: Path) -> "TensorRtBackend":
    """Engines are built for the GPU that is here, unless that was done before."""
    capability, card = gpu(name)
    trt, store = engines.library(package), engines.EngineStore()
    ahead = capability in engines.targets(trt)  # then an engine is for the kind, otherwise for the very card
    target = capability if ahead else f"{capability} {card}"

    def built(graph: bytes, *, refittable: bool) -> engines.Engine:
        plan = engines.build(trt, graph, target if ahead else engines.HERE, refittable=refittable)
        store.keep(graph, trt, target, plan, refittable=refittable)
        return engines.Engine(plan, None)

    graphs = [(folder / FOLDER / file).read_bytes() for file in ENGINE_GRAPHS]
    kept = [store.find(graph, trt, target) or built(graph, refittable=True) for graph in graphs]
    try:
        return TensorRtBackend(name, trt, kept)
    except SyvlaError as error:
        if all(engine.refit is None for engine in kept):
            raise
        _log.warning("%s: engines of another checkpoint do not serve this one, it gets its own: %s", name, error)
        return TensorRtBackend(name, trt, [built(graph, refittable=False) for graph in graphs])


def gpu(backend: str) -> tuple[str, str]:
    """The capability of this machine's GPU, such as SM89, and its name; ConfigError where there is none."""
    cuda = _cuda()
    status, count = cuda.cudaGetDeviceCount()
    if status != cuda.cudaError_t.cudaSuccess or count == 0:
        raise ConfigError(f"backend {backend!r} needs an NVIDIA GPU and its driver; CUDA says {status.name}")
    properties = _done(cuda.cudaGetDeviceProperties(0))
    return f"SM{properties.major}{properties.minor}", properties.name.decode()


def _cuda() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise ConfigError("cuda-bindings is missing; it needs: pip install 'syvla[tensorrt]'") from error
    return runtime


def _done(answer: tuple[Any, ...]) -> Any:
    """What a call of the CUDA runtime gives; SyvlaError if it failed."""
    status, *found = answer
    if int(status) != 0:
        raise SyvlaError(f"CUDA: {status.name}")
    return found[0] if found else None


class _Buffer:
    """Memory of one tensor, on the device or, ``pinned``, on the host; freed with the object."""

    def __init__(self, shape: Sequence[int], dtype: Any, *, pinned: bool = False) -> None:
        cuda = _cuda()
        self.nbytes = math.prod(shape) * np.dtype(dtype).itemsize  # 0 for the aim of an expert without one
        self.address = int(_done((cuda.cudaMallocHost if pinned else cuda.cudaMalloc)(max(self.nbytes, 1))))
        weakref.finalize(self, cuda.cudaFreeHost if pinned else cuda.cudaFree, self.address)
        self.array: Array = np.empty(0)
        if pinned:
            memory = (ctypes.c_byte * self.nbytes).from_address(self.address)
            self.array = np.frombuffer(memory, dtype).reshape(tuple(shape))


class _Graph:
    """One engine with the memory that it reads and writes."""

    def __init__(self, trt: Any, runtime: Any, kept: engines.Engine, given: Mapping[str, _Buffer]) -> None:
        engine = runtime.deserialize_cuda_engine(kept.plan)
        if engine is None:
            raise SyvlaError(f"{trt.__name__} {trt.__version__} cannot read the engine on this machine")
        if kept.refit is not None:
            engines.refit(trt, engine, kept.refit)
        self.context = engine.create_execution_context()
        self.inputs: dict[str, _Buffer] = {}
        self.outputs: dict[str, _Buffer] = {}
        self.shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            shape, dtype = tuple(engine.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
            self.shapes[name] = shape, dtype
            buffer = given.get(name)
            buffer = _Buffer(shape, dtype) if buffer is None else buffer
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[name] = buffer
            self.context.set_tensor_address(name, buffer.address)

    def enqueue(self, stream: int) -> None:
        """Run it on ``stream``, some time."""
        if not self.context.execute_async_v3(stream):
            raise SyvlaError("TensorRT could not start the engine")


class TensorRtBackend:
    """Three engines on one stream; what a chunk needs is captured as one CUDA graph and replayed from then on.

    Inputs and the chunk travel through pinned memory, and nothing waits but the end.

    Args:
        name: the backend's.
        trt: the library.
        kept: the engines, in the order of ``exported.ENGINE_GRAPHS``.
    """

    def __init__(self, name: str, trt: Any, kept: Sequence[engines.Engine]) -> None:
        self.name = name
        self._runtime_api = cuda = _cuda()
        self._stream = int(_done(cuda.cudaStreamCreate()))
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._runtime = runtime  # engines live no longer than it
        condition, context, denoise = kept
        self._condition = _Graph(trt, runtime, condition, {})
        self._context = _Graph(trt, runtime, context, {})
        # What a context's graph gives is named key_out and value_out, what the loop takes key and value.
        handed_on = {name.removesuffix("_out"): buffer for name, buffer in self._context.outputs.items()}
        self._denoise = _Graph(trt, runtime, denoise, handed_on)
        self._host = {
            name: _Buffer(*graph.shapes[name], pinned=True)
            for graph, names in (
                (self._condition, ("query_states",)),
                (self._context, ("state", "age_s")),
                (self._denoise, ("noise", "prefix_rows", "prefix", "chunk")),
            )
            for name in names
        }
        self._graph = self._capture()

    def _capture(self) -> Any:
        cuda, stream = self._runtime_api, self._stream
        self._condition.enqueue(stream)
        for _ in range(WARM_UP):
            self._enqueue()
        _done(cuda.cudaStreamSynchronize(stream))
        _done(cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        self._enqueue()
        graph = _done(cuda.cudaStreamEndCapture(stream))
        return _done(cuda.cudaGraphInstantiate(graph, 0))

    def _enqueue(self) -> None:
        for graph, names in ((self._context, ("state", "age_s")), (self._denoise, ("noise", "prefix_rows", "prefix"))):
            for name in names:
                self._copy(graph.inputs[name], self._host[name])
        self._context.enqueue(self._stream)
        self._denoise.enqueue(self._stream)
        self._copy(self._host["chunk"], self._denoise.outputs["chunk"])

    def _copy(self, to: _Buffer, source: _Buffer) -> None:
        kind = self._runtime_api.cudaMemcpyKind.cudaMemcpyDefault
        _done(self._runtime_api.cudaMemcpyAsync(to.address, source.address, source.nbytes, kind, self._stream))

    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim, on the device, in memory of their own."""
        self._host["query_states"].array[0] = query_states
        self._copy(self._condition.inputs["query_states"], self._host["query_states"])
        self._condition.enqueue(self._stream)
        found = []
        for name, buffer in self._condition.outputs.items():
            own = _Buffer(*self._condition.shapes[name])
            self._copy(own, buffer)
            found.append((name, own))
        _done(self._runtime_api.cudaStreamSynchronize(self._stream))
        return found

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        host = self._host
        for name, value in inputs._asdict().items():
            host[name].array[0] = value
        for name, buffer in conditioned:
            if name in self._context.inputs:  # an expert without an aim has no use for one
                self._copy(self._context.inputs[name], buffer)
        _done(self._runtime_api.cudaGraphLaunch(self._graph, self._stream))
        _done(self._runtime_api.cudaStreamSynchronize(self._stream))
        rows: Float32 = host["chunk"].array[0].copy()
        return rows
