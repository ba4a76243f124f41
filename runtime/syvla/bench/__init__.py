"""Benchmarks: each module measures one thing; ``run(repeats, quick)`` gives the result for JSON and lines to print."""

from collections.abc import Callable
from typing import Any

from syvla.bench import (
    cameras,
    closed_loop,
    demonstrator,
    disk,
    expert,
    link,
    lockstep,
    loop,
    planner,
    policy,
    reaction,
    recorder,
    seams,
    takeover,
    transport,
)

Benchmark = Callable[[int | None, bool], tuple[dict[str, Any], list[str]]]

BENCHMARKS: dict[str, Benchmark] = {
    "transport": transport.run,
    "link": link.run,
    "loop": loop.run,
    "lockstep": lockstep.run,
    "demonstrator": demonstrator.run,
    "closed-loop": closed_loop.run,
    "takeover": takeover.run,
    "cameras": cameras.run,
    "recorder": recorder.run,
    "disk": disk.run,
    "expert": expert.run,
    "planner": planner.run,
    "policy": policy.run,
    "reaction": reaction.run,
    "seams": seams.run,
}
