"""The benchmark of the planner: the same words and states as transformers, in less time."""

from syvla.bench import BENCHMARKS


def test_the_shipped_planner_says_the_same_as_transformers() -> None:
    result, lines = BENCHMARKS["planner"](3, True)
    assert (result["images"], result["equal"]) == (3, 3)
    assert result["mean_tokens"] > 10
    medians = result["median_ms"]
    for name, times in result["times_transformers"].items():
        assert times == medians["transformers"] / medians[name] > 0.0
    assert result["reached"] is (result["times_transformers"]["from nothing"] >= 1.5)
    assert "the same for 3 of 3 images" in lines[-1]
