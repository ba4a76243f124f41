"""The benchmarks over ROS run, and say what they measured."""

import json
from pathlib import Path

import pytest

from syvla_ros.bench import loop, take_over


def test_a_press_published_on_joy_takes_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take_over(presses=3, json=tmp_path / "a.json")
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["presses"] >= 3
    assert 0.0 < result["latency_s"]["p50"] < 1.0
    assert result["target_p99_s"] == 0.03
    assert "ros-takeover: " in capsys.readouterr().out


def test_the_same_seed_is_done_over_both_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop(seeds=1, json=tmp_path / "a.json")
    result = json.loads((tmp_path / "a.json").read_text())
    for host in result["hosts"].values():
        assert (host["done"], host["success"]) == (1, [True])
        assert host["published_to_command_s"]["n"] > 50
        assert 0.0 < host["published_to_command_s"]["p50"] < 0.1
        assert host["lateness_s"]["n"] > 1000
    assert result["points_lost"] == 0.0
    assert "done 1 of 1 over ROS, 1 of 1 over the bus" in capsys.readouterr().out
