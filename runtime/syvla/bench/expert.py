"""How long a chunk takes with every backend of the expert, tiny and base size."""

from typing import Any

from syvla.bench.conditions import conditions
from syvla.rig import bench_expert


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Time them ``repeats`` times in turn (15 by default)."""
    result, lines = bench_expert(repeats, quick)
    return {**result, "conditions": conditions()}, lines
