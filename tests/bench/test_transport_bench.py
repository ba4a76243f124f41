"""The transport benchmark runs to its end and says what it measured."""

import json

from syvla.bench import BENCHMARKS


def test_the_transport_benchmark_reports_both_transports() -> None:
    result, lines = BENCHMARKS["transport"](1, True)
    assert json.loads(json.dumps(result))["transports"] == result["transports"]
    assert result["request_bytes"] > 3 * 640 * 480 * 3
    assert [line.split(":")[0] for line in lines] == ["transport, ipc", "transport, tcp"]
    for row in result["transports"].values():
        assert 0 < row["bare_p50_ms"] <= row["bare_p99_ms"]
        assert 0 < row["bus_p50_ms"] <= row["bus_p99_ms"]
        assert row["ratios"] == [row["ratio"]]
        assert row["bus_p50_ms"] < 100 * row["bare_p50_ms"]
