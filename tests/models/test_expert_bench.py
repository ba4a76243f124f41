"""The benchmark of the expert's backends measures every one that is here, and says why another is not."""

import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syvla.bench import BENCHMARKS
from syvla.errors import SyvlaError
from syvla_models.backends import bench, choice
from syvla_models.backends.floors import Floors
from syvla_models.expert import TINY

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
    assert tiny["times_floor"] == pytest.approx(best_ms / tiny["floors_ms"]["cpu"]["arithmetic_ms"])
    beside_ms = tiny["backends"][tiny["best"]]["beside_planner_ms"]["p50"]
    assert 0.0 < beside_ms == tiny["beside_planner_ms"]
    assert result["reached"] is (tiny["times_torch"] >= 3.0 and beside_ms <= 20.0)
    assert any("openvino_bf16" in line and "skipped" in line for line in lines)


def row(p50_ms: float, *, accepted: bool = True, beside_ms: float = 1.0) -> dict[str, Any]:
    return {"accepted": accepted, "cached_intent_ms": {"p50": p50_ms}, "beside_planner_ms": {"p50": beside_ms}}


def test_what_is_reached_is_judged_by_size_and_by_device() -> None:
    cpu = {"cpu": Floors(1.0, 2.0)}
    rows = {"eager": row(9.0), "fast": row(1.0, accepted=False), "openvino": {"skipped": "does not run here"}}
    assert bench._verdict("tiny", rows, cpu)["reached"] is False, "no backend is accepted"
    rows["fast"] = row(1.0)
    found = bench._verdict("tiny", rows, cpu)
    assert (found["best"], found["times_torch"], found["times_floor"], found["reached"]) == ("fast", 9.0, 0.5, True)
    assert bench._verdict("tiny", rows | {"fast": row(1.0, beside_ms=21.0)}, cpu)["reached"] is False
    assert bench._verdict("tiny", rows | {"fast": row(3.1)}, cpu)["reached"] is False
    assert bench._verdict("base", rows, cpu)["reached"] is True
    assert bench._verdict("base", rows, {"cpu": Floors(1.0, 0.6)})["reached"] is False
    both = cpu | {"gpu": Floors(0.5, 0.1)}
    assert bench._verdict("base", rows, both)["reached"] is False, "no backend of the GPU that is here"
    found = bench._verdict("base", rows | {"cuda_graph": row(2.9), "tensorrt": row(0.1, accepted=False)}, both)
    assert (found["best"], found["best_gpu"], found["gpu_ms"], found["reached"]) == ("fast", "cuda_graph", 2.9, True)
    assert bench._verdict("base", rows | {"cuda_graph": row(3.1)}, both)["reached"] is False
    assert bench._verdict("base", rows | {"compiled": row(0.1)}, both)["best_gpu"] == "compiled", "it runs on the GPU"
    assert bench._verdict("base", rows | {"compiled": row(0.1)}, cpu)["best"] == "compiled"


def test_a_backend_that_fails_in_the_midst_is_skipped_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process had ended with a traceback, and every other backend's figures with it."""
    here, there = Pipe()
    end = threading.Thread(target=bench._serve, args=("failing", Path(), 1, there))

    class Failing:
        calls = 0

        def condition(self, query_states: object) -> tuple[()]:
            return ()

        def chunk(self, conditioned: object, inputs: object) -> np.ndarray:
            self.calls += 1
            if self.calls > 3:
                raise RuntimeError("out of memory")
            return np.zeros(1)

    monkeypatch.setattr(choice, "start", lambda *_: Failing())
    end.start()
    assert bench._answer(here) is None
    probe = bench._probe(TINY, 0)
    assert len(bench._ask(here, "answers", [probe])) == 1
    rows: dict[str, Any] = {"failing": {"accepted": True}}
    bench._time(rows, {"failing": here}, 2, {"cached_intent_ms": ("cached", 1)})
    assert rows == {"failing": {"skipped": "does not run here: out of memory"}}
    end.join()
    there.close()
    with pytest.raises(SyvlaError, match="its process ended"):
        bench._ask(here, "memory", 0)
