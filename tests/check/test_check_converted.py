"""Recordings that were converted: at the rate of the other format, and without what that does not hold."""

from pathlib import Path

import pytest
from tests.check.episodes import LENGTH_NS, MID_NS, MS, Told, changed, configured, good, only, write
from tests.convert.made import run

from syvla import messages as m
from syvla.check.episode import check_episode
from syvla.check.finding import EpisodeCheck
from syvla.convert.command import Target
from syvla.recording.mcap_log import McapLog
from syvla.transport.codec import encode_body


@pytest.mark.parametrize("to", ["aloha", "lerobot"])
@pytest.mark.parametrize("by", ["policy", "person"])
def test_there_and_back_is_without_fault(tmp_path: Path, to: Target, by: str) -> None:
    def led(told: Told) -> Told:
        teleop = m.Provenance(source=m.Source.TELEOP, override_id=0)
        return told.but(provenance=teleop) if by == "person" else told

    source = write(tmp_path / "episode.mcap", changed(led, "command"), configured(frozen_frames=2))
    assert run([source], tmp_path / "there", to, fps=60)[0] == 0
    there = sorted((tmp_path / "there").glob("*.hdf5")) or [tmp_path / "there"]
    assert run(there, tmp_path / "back", "mcap")[0] == 0
    (back,) = (tmp_path / "back").glob("*.mcap")
    result = check_episode(back)
    assert result.findings == []
    assert result.messages > 100


def converted(path: Path, told: list[Told]) -> EpisodeCheck:
    """Every fourth row of them, as a conversion at a quarter of the rate leaves it, and what the check says."""
    log = McapLog(path, {"rig": "twin", "converted_from": "elsewhere"}, {"run.json": configured()})
    numbers: dict[str, int] = {}
    for each in told:
        count = numbers[each.topic] = numbers.get(each.topic, -1) + 1
        row = each.topic in ("command", "arm/left", "arm/right")
        if not row or count % 4 == 0:
            header = each.header._replace(epoch=0, sequence=count // 4 if row else count)
            log.write(header, type(each.message), encode_body(each.message), each.log_ns)
    return check_episode(log.close({"outcome": "success"}))


def test_its_rates_are_its_own_and_what_breaks_them_is_found(tmp_path: Path) -> None:
    assert converted(tmp_path / "a.mcap", list(good())).findings == []
    told = changed(lambda t: None if MID_NS <= t.log_ns < MID_NS + 300 * MS else t, "arm/left")
    finding = only(converted(tmp_path / "b.mcap", told), "stamps.missing", "arm/left")
    assert "one is due every 0.020 s" in finding.seen
    told = changed(lambda t: None if t.log_ns > LENGTH_NS - 1000 * MS else t, "arm/left")
    only(converted(tmp_path / "c.mcap", told), "stamps.end_early", "arm/left")
