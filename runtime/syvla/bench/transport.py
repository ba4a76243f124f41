"""How long an observation takes to a policy and its chunk back, beside a bare echo of the same bytes.

One client and two servers, each a process of its own. The bus server decodes and checks three 640x480 images with
14 floats and answers with a 50x14 chunk through the codec and the bus, as a stage's host does. The bare server
answers the same frames with the same frames through pyzmq alone. The client asks them in turn, so that both
meet the same machine.
"""

import multiprocessing
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import zmq

from syvla import clock
from syvla.bench.conditions import conditions
from syvla.errors import TransportError
from syvla.messages import ActionChunk, CameraFrame, Observation
from syvla.protocols import Header
from syvla.topics import CAMERAS
from syvla.transport.bus import Inlet, Outlet, Subscription, ipc_directory
from syvla.transport.codec import encode
from syvla.transport.credit import Socket
from syvla.transport.wire import Buffer

TRANSPORTS = ("ipc", "tcp")
HORIZON = 50
PERIOD_NS = 33_333_333
ANSWER_LIMIT_MS = 5000
SETTLE_S = 0.0005  # before each round trip: what one leaves to be done must not be charged to the other
WARM_UP = 40  # round trips before the first that counts
END_LIMIT_S = 5.0
TARGET_RATIO = 1.3


_POSITION_RAD = np.zeros((HORIZON, 12), np.float32)
_GRIPPER_WIDTH_M = np.zeros((HORIZON, 2), np.float32)


class _Addresses(NamedTuple):
    """Where the parties meet."""

    client: str  # the client's outlet
    server: str  # the bus server's outlet
    bare: str


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Measure ``repeats`` runs of round trips over ipc and tcp, by bus and bare in turn.

    The result gives for each transport the median and 99th percentile of a round trip [ms], the ratio of the
    medians of each run, and the median of those ratios.
    """
    repeats = repeats or (1 if quick else 5)
    round_trips = 50 if quick else 300
    transports: dict[str, dict[str, Any]] = {}
    for transport in TRANSPORTS:
        with ExitStack() as stack:
            transports[transport] = _measure(transport, repeats, round_trips, stack)
    lines = [
        f"transport, {name}: {row['bus_p50_ms']:.3f} / {row['bus_p99_ms']:.3f} ms, bare pyzmq echo "
        f"{row['bare_p50_ms']:.3f} / {row['bare_p99_ms']:.3f} ms (median / p99 of {repeats} x {round_trips}); "
        f"{row['ratio']:.2f}x (target {TARGET_RATIO:g}x)"
        for name, row in transports.items()
    ]
    result = {
        "benchmark": "transport",
        "conditions": conditions(),
        "request_bytes": sum(map(len, _request_frames())),
        "reply_bytes": sum(map(len, _reply_frames())),
        "round_trips": round_trips,
        "transports": transports,
        "target": TARGET_RATIO,
        "reached": all(row["ratio"] <= TARGET_RATIO for row in transports.values()),
    }
    return result, lines


# ---------------------------------------------------------------- the two messages


def _observation(observation_ns: int, images: Sequence[np.ndarray[Any, np.dtype[np.uint8]]]) -> Observation:
    frames = tuple(
        CameraFrame(camera=camera, frame_id=observation_ns, exposure_ns=observation_ns, rgb=image)
        for camera, image in zip(CAMERAS, images, strict=True)
    )
    ages = dict.fromkeys(CAMERAS, 0.01)
    return Observation(observation_ns=observation_ns, proprioception=np.zeros(14), frames=frames, source_age_s=ages)


def _images() -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in CAMERAS]


def _chunk(observation_ns: int) -> ActionChunk:
    return ActionChunk(
        task_id=1,
        chunk_id=observation_ns,
        intent_id=0,
        intent_observation_ns=0,
        observation_ns=observation_ns,
        period_ns=PERIOD_NS,
        position_rad=_POSITION_RAD,
        gripper_width_m=_GRIPPER_WIDTH_M,
        inference_delay_steps=1,
    )


def _request_frames() -> list[Buffer]:
    return encode(Header("observation", 1, 0, clock.monotonic_ns(), 0), _observation(1, _images()))


def _reply_frames() -> list[Buffer]:
    return encode(Header("chunk", 1, 0, clock.monotonic_ns(), 0), _chunk(1))


# ---------------------------------------------------------------- servers


def _serve_bus(addresses: _Addresses) -> None:
    outlet = Outlet("server", [addresses.server], epoch=1)
    inlet = Inlet([Subscription("observation", addresses.client)])
    poller = _poller(outlet, inlet)
    while True:
        poller.poll(50)
        for received in inlet.drain():
            if isinstance(received.message, Observation):
                outlet.publish("chunk", _chunk(received.message.observation_ns), clock.monotonic_ns(), 0)
        outlet.poll()


def _serve_bare(addresses: _Addresses) -> None:
    socket: Socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.bind(addresses.bare)
    reply = _reply_frames()
    while True:
        identity, *_ = socket.recv_multipart(copy=False)
        socket.send_multipart([identity, *reply])


def _poller(outlet: Outlet, inlet: Inlet) -> zmq.Poller:
    poller = zmq.Poller()
    for socket in (*outlet.sockets, *inlet.sockets):
        poller.register(socket, zmq.POLLIN)
    return poller


# ---------------------------------------------------------------- the client


class _BusClient:
    def __init__(self, addresses: _Addresses) -> None:
        self._outlet = Outlet("client", [addresses.client], epoch=1)
        self._inlet = Inlet([Subscription("chunk", addresses.server)])
        self._poller = _poller(self._outlet, self._inlet)

    def round_trip(self, observation: Observation) -> None:
        """Publish ``observation`` and wait for its chunk."""
        number = observation.observation_ns
        self._outlet.publish("observation", observation, clock.monotonic_ns(), 0)
        deadline_ns = clock.monotonic_ns() + ANSWER_LIMIT_MS * 1_000_000
        answered = False
        while clock.monotonic_ns() < deadline_ns:
            self._poller.poll(50)
            for received in self._inlet.drain():
                answered |= isinstance(received.message, ActionChunk) and received.message.observation_ns == number
            self._outlet.poll()
            if answered:
                return
        raise TransportError(f"the bus server did not answer; last refusal: {self._inlet.last_refusal!r}")

    def close(self) -> None:
        self._inlet.close()
        self._outlet.close()


class _BareClient:
    def __init__(self, addresses: _Addresses) -> None:
        self._socket: Socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, ANSWER_LIMIT_MS)
        self._socket.connect(addresses.bare)
        self._request = _request_frames()

    def round_trip(self) -> None:
        """Send the frames of an observation and wait for those of a chunk."""
        self._socket.send_multipart(self._request, copy=False)
        try:
            self._socket.recv_multipart()
        except zmq.Again:
            raise TransportError("the bare server did not answer") from None

    def close(self) -> None:
        self._socket.close()


def _measure(transport: str, runs: int, round_trips: int, stack: ExitStack) -> dict[str, Any]:
    addresses = _addresses(transport, stack)
    for serve in (_serve_bus, _serve_bare):
        stack.callback(_end, _start(serve, addresses))
    bus, bare = _BusClient(addresses), _BareClient(addresses)
    stack.callback(bus.close)
    stack.callback(bare.close)
    images = _images()
    bus_ns, bare_ns = np.zeros((runs, round_trips)), np.zeros((runs, round_trips))
    for number in range(-WARM_UP, runs * round_trips):
        observation = _observation(number + WARM_UP, images)
        time.sleep(SETTLE_S)
        started_ns = clock.monotonic_ns()
        bus.round_trip(observation)
        bus_ended_ns = clock.monotonic_ns()
        time.sleep(SETTLE_S)
        bare_started_ns = clock.monotonic_ns()
        bare.round_trip()
        ended_ns = clock.monotonic_ns()
        if number >= 0:
            bus_ns.flat[number] = bus_ended_ns - started_ns
            bare_ns.flat[number] = ended_ns - bare_started_ns
    ratios = np.median(bus_ns, axis=1) / np.median(bare_ns, axis=1)
    return {
        "bus_p50_ms": _quantile_ms(bus_ns, 0.5),
        "bus_p99_ms": _quantile_ms(bus_ns, 0.99),
        "bare_p50_ms": _quantile_ms(bare_ns, 0.5),
        "bare_p99_ms": _quantile_ms(bare_ns, 0.99),
        "ratio": round(float(np.median(ratios)), 3),
        "ratios": [round(float(ratio), 3) for ratio in ratios],
    }


def _quantile_ms(values_ns: np.ndarray[Any, np.dtype[np.float64]], quantile: float) -> float:
    return round(float(np.quantile(values_ns, quantile)) / 1e6, 4)


# ---------------------------------------------------------------- processes


def _addresses(transport: str, stack: ExitStack) -> _Addresses:
    if transport == "tcp":
        return _Addresses(*(f"tcp://127.0.0.1:{port}" for port in _free_ports(3)))
    directory = ipc_directory(f"bench-{secrets.token_hex(4)}")
    stack.callback(shutil.rmtree, directory, ignore_errors=True)  # libzmq removes its files at the same time
    return _Addresses(*(f"ipc://{directory}/{name}" for name in _Addresses._fields))


def _free_ports(count: int) -> list[int]:
    sockets: list[Socket] = [zmq.Context.instance().socket(zmq.PAIR) for _ in range(count)]
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in sockets]
    for socket in sockets:
        socket.close(0)
    return ports


def _start(serve: Callable[[_Addresses], None], addresses: _Addresses) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(addresses,), daemon=True)
    process.start()
    return process


def _end(process: BaseProcess) -> None:
    process.terminate()
    process.join(END_LIMIT_S)
