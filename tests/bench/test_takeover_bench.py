"""The takeover benchmark: which command a press led to, and that it runs."""

import pytest

from syvla.bench.takeover import latencies_s, run

MS = 1_000_000


def test_a_press_is_paired_with_the_first_command_before_the_next_press() -> None:
    pressed = [100 * MS, 300 * MS, 500 * MS, 700 * MS]
    assert latencies_s(pressed, [50 * MS, 108 * MS, 712 * MS]) == pytest.approx([0.008, 0.012])
    assert latencies_s(pressed, []) == []


def test_it_runs() -> None:
    result, lines = run(3, quick=True)
    assert result["presses"] >= 3
    assert 0.0 < result["latency_s"]["p50"] < 1.0
    assert "deadman to first human command" in lines[0]
