"""The cameras' benchmark runs to its end and says what it measured."""

import json

import pytest

from syvla.bench import BENCHMARKS


def test_the_cameras_benchmark_reports_cost_and_latency_with_and_without_depth() -> None:
    pytest.importorskip("pyrealsense2", exc_type=ImportError)
    result, lines = BENCHMARKS["cameras"](1, True)
    assert json.loads(json.dumps(result))["median"] == result["median"]
    assert [line.split(":")[0] for line in lines] == ["cameras, colour", "cameras, colour and aligned depth"]
    for row in result["median"].values():
        assert 0 < row["core"] < 1
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert 0 < row["frames_hz"] < 100
