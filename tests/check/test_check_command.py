"""``syvla check``: bad files, exit statuses, JSON and the page; nothing is overwritten, every text stays text."""

import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.check.episodes import GOLDEN, LENGTH_NS, Told, changed, configured, good, write

from syvla.check.episode import check_episode
from syvla.cli import main
from syvla.recording.mcap_log import McapLog
from syvla.transport.codec import encode_body

Ran = tuple[int, str, str]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs ``syvla check`` with these arguments: its exit status, what it printed, and its error."""

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["syvla", "check", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "400")
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings: a good one, one with a warning, one with an error."""
    path = tmp_path / "episodes"
    path.mkdir()
    shutil.copy(GOLDEN / "policy.mcap", path / "good.mcap")
    write(path / "odd.mcap", changed(lambda t: t, "nothing"), outcome="interrupted")
    write(path / "bad.mcap", changed(lambda t: t.but(instruction=""), "task"))
    return path


def test_a_folder_has_a_table_a_page_and_a_status(ran: Any, folder: Path) -> None:
    status, out, _ = ran(folder)
    assert status == 1
    assert "3 checked: 1 without fault, 1 with warnings, 1 with errors" in out
    assert "task.empty" in out
    assert "-> give the task in words" in out
    page = (folder / "check.html").read_text()
    assert "task.empty" in page
    assert "outcome.interrupted" in page
    status, out, _ = ran(folder)
    assert "over the one of before" in out, "its own page is replaced, and it says so"


def test_statuses(ran: Any, folder: Path) -> None:
    assert ran(folder / "good.mcap")[0] == 0
    assert ran(folder / "odd.mcap")[0] == 0
    assert ran(folder / "odd.mcap", "--strict")[0] == 1
    assert ran(folder / "good.mcap", "--strict")[0] == 0
    assert ran(folder / "bad.mcap")[0] == 1
    assert not (folder / "check.html").exists(), "only for a folder"


def test_json(ran: Any, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "check.json"
    assert ran(folder / "bad.mcap", folder / "good.mcap", "--json", target, "--jobs", "2")[0] == 1
    report = json.loads(target.read_text())
    assert report["schema_version"] == 1
    assert report["well"] is False
    bad, well = report["episodes"]
    assert bad["findings"] == [
        {
            "name": "task.empty",
            "severity": "error",
            "where": "task",
            "seen": "the task's text is empty",
            "fix": "give the task in words before the episode starts",
            "at_s": None,
            "count": 1,
        }
    ]
    assert well["findings"] == []
    status, out, _ = ran(folder / "bad.mcap", "--json", "-")
    assert status == 1
    assert json.loads(out)["episodes"][0]["findings"][0]["name"] == "task.empty"


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_what_is_not_its_own_is_never_overwritten(ran: Any, folder: Path, option: str) -> None:
    """An option that by mistake names a recording must not cost the recording."""
    target = folder / "good.mcap"
    before = target.read_bytes()
    status, _, err = ran(folder / "bad.mcap", option, target)
    assert status == 2
    assert "not overwritten" in err
    assert err.count("\n") == 1
    assert target.read_bytes() == before
    link = folder / "link"
    link.symlink_to(target)
    assert ran(folder / "bad.mcap", option, link)[0] == 2
    assert target.read_bytes() == before


def test_a_page_of_somebody_else_in_the_folder_stays(ran: Any, folder: Path) -> None:
    (folder / "check.html").write_text("my notes")
    status, out, _ = ran(folder)
    assert status == 1
    assert "no page was written" in out
    assert (folder / "check.html").read_text() == "my notes"


@pytest.mark.parametrize(
    ("name", "said"), [("none.mcap", "No such file"), ("empty", "no recordings"), ("", "no recordings")]
)
def test_what_is_not_there_is_one_line(ran: Any, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    status, _, err = ran(tmp_path / name)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


FOREIGN = [
    ("text", b"hello\n" * 100),
    ("nothing", b""),
    ("pickle", b"\x80\x04cos\nsystem\n(S'touch owned'\ntR."),
    ("claims", b"\x89MCAP0\r\n" + b"\x01" + (2**60).to_bytes(8, "little")),
]


@pytest.mark.parametrize(("name", "data"), FOREIGN)
def test_a_foreign_file_is_one_finding_and_the_rest_is_checked(
    ran: Any, tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / f"{name}.mcap"
    path.write_bytes(data)
    status, out, _ = ran(path, GOLDEN / "policy.mcap")
    assert status == 1
    assert out.count("file.unreadable") == 1
    assert "policy.mcap  4.3 s, golden  ok" in out
    assert ran(path)[0] == 2, "nothing of what was named is a recording"
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.mcap"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    (finding,) = check_episode(path).findings
    assert finding.name == "file.unreadable"
    fifo = tmp_path / "fifo.mcap"
    os.mkfifo(fifo)
    (finding,) = check_episode(fifo).findings
    assert "not a regular file" in finding.seen


def test_a_truncated_recording_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mcap", changed(lambda t: t.but(instruction=""), "task"))
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    result = check_episode(cut)
    assert {f.name for f in result.findings} == {"file.ends_early", "task.empty"}
    assert 1.0 < result.duration_s < 2.7
    end = next(f for f in result.findings if f.name == "file.ends_early")
    assert end.at_s == result.duration_s


def test_a_damaged_recording_is_checked_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "damaged.mcap", good())
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0xFF
    path.write_bytes(data)
    (finding,) = check_episode(path).findings
    assert finding.name == "file.damaged"
    assert finding.at_s is not None
    assert 0.5 < finding.at_s < 2.9


def test_a_recording_that_is_being_written_is_no_error(tmp_path: Path) -> None:
    log = McapLog(tmp_path / "now.mcap", {}, {"run.json": configured()})
    for told in good():
        log.write(told.header, type(told.message), encode_body(told.message), told.log_ns)
    log.flush()
    result = check_episode(log.path)
    assert [f.name for f in result.findings] == ["file.being_written"]
    log.close({})


@pytest.mark.parametrize(
    "configuration",
    ["{}", '{"rig": 1}', "\x00"]
    + [configured().replace('"rate_hz":200.0', f'"rate_hz":{rate}') for rate in ("0.0", "-1.0", "1e-320", "1e308")],
)
def test_a_configuration_that_is_not_understood_is_told(tmp_path: Path, configuration: str) -> None:
    result = check_episode(write(tmp_path / "a.mcap", good(), configuration))
    assert [f.name for f in result.findings] == ["file.no_configuration"]


@pytest.mark.parametrize(("outcome", "names"), [("discarded", ["outcome.discarded"]), ("failure", []), ("fault", [])])
def test_how_it_ended(tmp_path: Path, outcome: str, names: list[str]) -> None:
    result = check_episode(write(tmp_path / "a.mcap", good(), outcome=outcome))
    assert [f.name for f in result.findings] == names


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_texts_stay_text(ran: Any, tmp_path: Path) -> None:
    script = '"><script>alert(1)</script>'
    folder = tmp_path / "<img src=x onerror=alert(2)>"
    folder.mkdir()
    told = changed(lambda t: t.but(instruction=f"Put {script} \x1b[2J\u202eaway"), "task")
    path = write(folder / "a.mcap", told, outcome="<b onclick=x>done</b>")
    path.rename(folder / "\x1b[31m<script src=y>.mcap")
    status, out, _ = ran(folder, "--json", tmp_path / "x.json")
    assert status == 0
    assert "\x1b[2J" not in out
    assert "\x1b[31m<" not in out
    html = (folder / "check.html").read_text()
    seen = Elements()
    seen.feed(html)
    assert not {"script", "img", "b"} & seen.tags
    assert not {"onerror", "onclick", "src"} & seen.attributes
    assert script in seen.text
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "default-src 'none'" in html
    assert "http:" not in html.replace("http-equiv", "")


def test_memory_does_not_grow_with_the_episode(tmp_path: Path) -> None:
    def times(count: int) -> Iterator[Told]:
        of_topic = {told.topic: sum(t.topic == told.topic for t in good()) for told in good()}
        for k in range(count):
            for told in good():
                header = told.header._replace(
                    sequence=told.header.sequence + k * of_topic[told.topic],
                    sent_ns=told.header.sent_ns + k * LENGTH_NS,
                )
                yield told._replace(header=header, log_ns=told.log_ns + k * LENGTH_NS)

    peaks = []
    for count in (2, 8):
        path = write(tmp_path / f"{count}.mcap", times(count))
        tracemalloc.start()
        assert check_episode(path).messages == count * len(good())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
