"""What the link to a planner elsewhere costs beside the thinking: from an observation to the intent made of it.

Two processes on loopback. The planner's is the real host with the real stage and a planner that answers at once; the
robot's packs three 640x480 images as asked for, sends them up and waits for the intent. Raw and JPEG, plain and
encrypted. The images are noise on coarse blocks, which JPEG 90 makes about as large as a camera's.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq

from syvla import clock
from syvla.bench.conditions import conditions
from syvla.config import PolicyConfig
from syvla.errors import TransportError
from syvla.hosts.process import ProcessHost
from syvla.messages import CameraFrame, Intent, Observation, SimTruth, Task
from syvla.protocols import PartialThought
from syvla.stages.observer import Delivered, packed
from syvla.stages.planner import PlannerStage
from syvla.topics import CAMERAS
from syvla.transport.codec import encode_body
from syvla.transport.keys import KeyPair, PlannerKeys, RobotKeys
from syvla.transport.planner_end import PlannerEnd
from syvla.transport.robot_end import RobotEnd

QUALITY = 90
WIDTH = 2048  # of the query states, as the 3 B planner's
WARM_UP = 5
ANSWER_LIMIT_NS = 10_000_000_000
START_LIMIT_S = 120.0
TARGET_P50_MS = 30.0
VARIANTS = tuple((encrypted, quality) for encrypted in (False, True) for quality in (0, QUALITY))


class _AtOnce:
    """A planner that has nothing to think about."""

    model_id = "at once"
    reads_truth = False

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        """Yield the intent."""
        yield Intent(
            intent_id=intent_id,
            task_id=task.task_id,
            observation_ns=observation.observation_ns,
            chain_of_thought="",
            feature_query_states=np.zeros((20, WIDTH), np.float16),
            model_id=self.model_id,
        )


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Measure ``repeats`` round trips (100 by default) of each variant.

    The result gives for each the size that goes up, and the least and median time of packing and of the whole way [ms].
    The least says what the link itself costs on a machine that does other things too.
    """
    repeats = repeats or (10 if quick else 100)
    rows = [_measure(encrypted, quality, repeats) for encrypted, quality in VARIANTS]
    lines = [
        f"link, {row['images']}, {'encrypted' if row['encrypted'] else 'plain'}: {row['least_ms']:.1f} / "
        f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f} ms (least / median / p99 of {repeats}), of it packing "
        f"{row['packing_least_ms']:.1f} / {row['packing_p50_ms']:.1f} ms; {row['bytes_up'] / 1e3:.0f} kB up"
        for row in rows
    ]
    reached = all(row["p50_ms"] <= TARGET_P50_MS for row in rows)
    lines.append(f"target: each median at most {TARGET_P50_MS:g} ms")
    result = {"benchmark": "link", "conditions": conditions(), "round_trips": repeats, "variants": rows}
    return {**result, "target_p50_ms": TARGET_P50_MS, "reached": reached}, lines


def _serve(address: str, keys: PlannerKeys | None, pipe: Connection) -> None:
    end = PlannerEnd(address, clock.monotonic_ns(), keys)
    pipe.send(end.address)
    stage = PlannerStage(_AtOnce(), Delivered(CAMERAS), PolicyConfig(planner_min_period_s=0.0))
    ProcessHost(stage, end, end, "SCHED_OTHER").run()


def _observation(observation_ns: int) -> Observation:
    random = np.random.default_rng(observation_ns % 7)
    blocks = random.integers(0, 256, (30, 40, 3)).repeat(16, axis=0).repeat(16, axis=1)
    rgb = np.clip(blocks + random.integers(-6, 7, (480, 640, 3)), 0, 255).astype(np.uint8)
    frames = tuple(CameraFrame(camera=name, frame_id=0, exposure_ns=observation_ns, rgb=rgb) for name in CAMERAS)
    return Observation(observation_ns=observation_ns, proprioception=np.zeros(14), frames=frames, source_age_s={})


def _measure(encrypted: bool, quality: int, repeats: int) -> dict[str, Any]:
    planner, robot = KeyPair(*zmq.curve_keypair()), KeyPair(*zmq.curve_keypair())
    with ExitStack() as stack:
        ours, theirs = multiprocessing.Pipe()
        keys = PlannerKeys(planner, frozenset({robot.public})) if encrypted else None
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=("tcp://127.0.0.1:*", keys, theirs), daemon=True
        )
        process.start()
        stack.callback(process.join, 5.0)
        stack.callback(process.terminate)
        if not ours.poll(START_LIMIT_S):
            raise TransportError("the planner's process did not start")
        end = RobotEnd(ours.recv(), clock.monotonic_ns(), RobotKeys(robot, planner.public) if encrypted else None)
        stack.callback(end.close)
        return _round_trips(end, encrypted, quality, repeats)


def _round_trips(end: RobotEnd, encrypted: bool, quality: int, repeats: int) -> dict[str, Any]:
    poller = zmq.Poller()
    poller.register(end.sockets[0], zmq.POLLIN)
    end.publish("task", Task(task_id=1, instruction="x", issued_ns=0), 0, 0)
    deadline_ns = clock.monotonic_ns() + ANSWER_LIMIT_NS
    while not end.connected:
        _wait(end, poller, deadline_ns)
    packing_ns, whole_ns, size = [], [], 0
    for number in range(-WARM_UP, repeats):
        observation = _observation(number + WARM_UP + 1)
        began_ns = clock.monotonic_ns()
        message = packed(observation, quality) if quality else observation
        packed_ns = clock.monotonic_ns()
        end.publish("observation/jpeg" if quality else "observation", message, packed_ns, 0)
        deadline_ns = began_ns + ANSWER_LIMIT_NS
        while not any(intent == observation.observation_ns for intent in _wait(end, poller, deadline_ns)):
            pass
        if number >= 0:
            packing_ns.append(packed_ns - began_ns)
            whole_ns.append(clock.monotonic_ns() - began_ns)
            size = sum(map(len, encode_body(message)))
    return {
        "encrypted": encrypted,
        "images": f"JPEG {quality}" if quality else "raw",
        "bytes_up": size,
        "packing_least_ms": round(min(packing_ns) / 1e6, 3),
        "packing_p50_ms": round(float(np.median(packing_ns)) / 1e6, 3),
        "least_ms": round(min(whole_ns) / 1e6, 3),
        "p50_ms": round(float(np.median(whole_ns)) / 1e6, 3),
        "p99_ms": round(float(np.quantile(whole_ns, 0.99)) / 1e6, 3),
    }


def _wait(end: RobotEnd, poller: zmq.Poller, deadline_ns: int) -> list[int]:
    """Serve the link once; the observations of which an intent came."""
    if clock.monotonic_ns() > deadline_ns:
        raise TransportError(f"the planner's process did not answer: {end.trouble or 'connected'}")
    poller.poll(20)
    came = [received.message.observation_ns for received in end.drain() if isinstance(received.message, Intent)]
    end.poll()
    return came
