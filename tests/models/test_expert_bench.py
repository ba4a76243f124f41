"""The benchmark of the expert's backends measures every one that is here, and says why another is not."""

import pytest

from syvla.bench import BENCHMARKS
from syvla_models.backends import bench, choice

pytest.importorskip("onnx")


@pytest.mark.timeout(600)  # ten steps in one graph take a minute to export, and much longer beside anything else
def test_every_backend_is_timed_and_held_against_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIZES", {"tiny": bench.SIZES["tiny"]})
    there = choice.installed
    monkeypatch.setattr(choice, "installed", lambda name: there(name) and name != "openvino_bf16")
    result, lines = BENCHMARKS["expert"](1, True)
    tiny = result["sizes"]["tiny"]
    assert tiny["backends"]["openvino_bf16"] == {"skipped": "openvino is not installed"}
    for name in ("eager", "onnxruntime", "openvino"):
        row = tiny["backends"][name]
        assert row["accepted"], name
        assert 0.0 < row["cached_intent_ms"]["p50"] <= row["cached_intent_ms"]["p99"]
        assert row["memory_bytes"] > 1e6
        assert (row["parity"]["worst_rad"] == 0.0) is (name == "eager")
    assert tiny["best"] in ("onnxruntime", "openvino")
    eager_ms = tiny["backends"]["eager"]["cached_intent_ms"]["p50"]
    best_ms = tiny["backends"][tiny["best"]]["cached_intent_ms"]["p50"]
    assert tiny["times_torch"] == pytest.approx(eager_ms / best_ms)
    assert tiny["times_floor"] == pytest.approx(best_ms / tiny["floors_ms"]["arithmetic_ms"])
    assert result["reached"] is (tiny["times_torch"] >= 3.0)
    assert any("openvino_bf16" in line and "skipped" in line for line in lines)


def test_nothing_is_reached_where_no_backend_is_accepted() -> None:
    rows = {
        "eager": {"accepted": True, "cached_intent_ms": {"p50": 9.0}},
        "fast": {"accepted": False, "cached_intent_ms": {"p50": 1.0}},
    }
    assert bench._verdict(rows, bench.Floors(1.0, 2.0))["reached"] is False
    rows["fast"]["accepted"] = True
    found = bench._verdict(rows, bench.Floors(1.0, 2.0))
    assert (found["best"], found["times_torch"], found["times_floor"], found["reached"]) == ("fast", 9.0, 0.5, True)
