"""The page of a recording: all it needs is in it, nothing recorded is ever more than text, nothing is hidden."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from tests.report.conftest import HANG, MS, PERIOD, T0, S, Script, realistic, record, run_config

from syvla import messages as m
from syvla.apps import replay_view
from syvla.apps.replay_view import view
from syvla.clock import to_ns
from syvla.errors import ConfigError, RecordingError
from syvla.recording.mcap_read import Recording
from syvla.report import page as page_folder
from syvla.report.episode import load
from syvla.report.spans import stretches
from syvla.report.view_data import page_data, read

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> $data ${film} & \u2028 \u202e"


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and what stands in each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append("")
        self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[-1] += data

    def texts(self, tag: str) -> list[str]:
        return [text for (name, _), text in zip(self.elements, self.inside, strict=True) if name == tag]


def made(
    recording: Path, folder: Path, at_s: float = 0.0, for_s: float = 600.0, height: int = 60
) -> tuple[Path, dict[str, Any]]:
    """The page, and the data in it."""
    path = view(recording, folder, at_s, for_s, height, lambda _: None)
    return path, json.loads(Parsed(path.read_text()).texts("script")[0])


def column(data: dict[str, Any], name: str) -> np.ndarray[Any, np.dtype[Any]]:
    packed = data["columns"][name]
    return np.frombuffer(base64.b64decode(packed["data"]), np.dtype(packed["type"]).newbyteorder("<"))


def test_the_page_shows_what_happened(episode: Path, tmp_path: Path) -> None:
    path, data = made(episode, tmp_path)
    assert path == tmp_path / "snack_loading-7.view.html"
    assert data["duration_s"] == pytest.approx(12.0, abs=0.1)
    (hold,) = [mode for mode in data["modes"] if mode[2] == "hold"]
    assert hold[0] == pytest.approx((HANG[0] - T0) / S + 1, abs=0.4)
    assert hold[3] == [["intent_stale", hold[3][0][1], "resume when the planner answers", [hold[:2]]]]
    said = {finding[4] for finding in data["findings"]}
    assert "HOLD: intent_stale" in said
    words = [thought[4] for thought in data["thoughts"]]
    assert any("open the gripper" in text for text in words)
    growing = data["thoughts"][0][6]
    assert [n for _, n in growing] == sorted(n for _, n in growing)
    assert growing[0][1] < growing[-1][1] == len(words[0])
    commands = load(episode).commands
    assert np.allclose(column(data, "command.position").reshape(14, -1)[:12].T, commands.position_rad, atol=1e-6)
    assert column(data, "command.chunk").tolist() == commands.chunk_id.tolist()
    assert column(data, "command.row").tolist() == commands.chunk_row.tolist()
    assert column(data, "command.intent").tolist() == commands.intent_id.tolist()
    assert len(data["splices"]) == len(load(episode).splices) > 100
    assert len(column(data, "lateness.ms")) == 24 * 100
    assert not data["notes"][1:], "only that it has no time of day"


def test_the_film_in_it_is_as_long_as_the_recording(two_cameras: Path, tmp_path: Path) -> None:
    path, data = made(two_cameras, tmp_path)
    mp4 = tmp_path / "film.mp4"
    mp4.write_bytes(base64.b64decode(Parsed(path.read_text()).texts("script")[1]))
    with av.open(str(mp4)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = list(container.decode(video=0))
    start_s, rate_hz, count = data["film"]
    assert len(frames) == count
    assert start_s == pytest.approx(0.0, abs=0.02)
    assert count / rate_hz == pytest.approx(3.0, abs=0.15)
    assert frames[0].height == 60 + 2 * 6
    keys = [i for i, frame in enumerate(frames) if frame.key_frame]
    assert max(np.diff(keys)) <= rate_hz / 2 + 1, "one can seek in it"


def test_words_of_a_recording_stay_words(tmp_path: Path) -> None:
    script = realistic(2.0, ())
    script.send(T0 + 5 * MS, "task", m.Task(task_id=4, instruction=HOSTILE, issued_ns=T0))
    thought = m.Thought(task_id=4, intent_id=90, observation_ns=T0, text=HOSTILE, complete=True)
    script.send(T0 + 6 * MS, "thought", thought)
    record(tmp_path, script, run_config()).close()
    path, data = made(tmp_path / "snack_loading-7.mcap", tmp_path)
    assert data["instruction"] == HOSTILE
    assert HOSTILE in [each[4] for each in data["thoughts"]]
    parsed = Parsed(path.read_text())
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 3
    assert "img" not in tags
    assert path.read_text().count("</script") == 3
    assert HOSTILE not in path.read_text()


def test_nothing_outside_the_page_is_needed_and_only_its_own_script_may_run(episode: Path, tmp_path: Path) -> None:
    path, _ = made(episode, tmp_path, height=0)
    text = path.read_text()
    parsed = Parsed(text)
    assert not re.search(r"https?:|@import|url\(|\beval\(|innerHTML|insertAdjacentHTML|document\.write", text)
    assert not [attributes for _, attributes in parsed.elements if {"src", "href"} & set(attributes)]
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    script, style = parsed.texts("script")[2], parsed.texts("style")[0]
    for kind, part in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")


@pytest.mark.parametrize("share", [0.999, 0.6, 0.3])
def test_a_recording_that_was_cut_short_is_shown_up_to_there(episode: Path, tmp_path: Path, share: float) -> None:
    whole = episode.read_bytes()
    cut = tmp_path / "cut.mcap.partial"
    cut.write_bytes(whole[: int(share * len(whole))])
    path, data = made(cut, tmp_path)
    assert path.name == "cut.view.html"
    assert "The recording was cut short" in data["notes"][0]
    assert data["duration_s"] > 0.8 * 12 * share
    assert data["film"] is not None


def test_without_cameras_it_says_so(blind: Path, tmp_path: Path) -> None:
    _, data = made(blind, tmp_path)
    assert data["film"] is None
    assert "Not in it: camera images." in data["notes"]


def test_what_exists_is_not_overwritten(blind: Path, tmp_path: Path) -> None:
    there = tmp_path / "snack_loading-7.view.html"
    there.write_text("mine")
    with pytest.raises(RecordingError, match="exists; name another folder"):
        made(blind, tmp_path)
    assert there.read_text() == "mine"


def test_a_part_is_shown_as_a_part_and_the_rest_is_not_read(episode: Path, tmp_path: Path) -> None:
    """Bytes that are broken after the part that was asked for are nobody's business."""
    broken = bytearray(episode.read_bytes())
    half = len(broken) * 3 // 4
    broken[half : half + 4096] = bytes(4096)
    (tmp_path / "b.mcap").write_bytes(broken)
    with pytest.raises(RecordingError):
        made(tmp_path / "b.mcap", tmp_path)
    _, data = made(tmp_path / "b.mcap", tmp_path, 2.0, 3.0)
    assert data["at_s"] == 2.0
    assert data["duration_s"] == pytest.approx(3.0, abs=0.05)
    note = next(note for note in data["notes"] if note.startswith("Only"))
    assert note == "Only seconds 2 to 5.00 of the recording are shown; it goes on: --at 5.00 shows what follows."
    assert data["instruction"] == "put the red bar and the green can into the blue tray", "asked for before"
    start_s, rate_hz, count = data["film"]
    assert start_s == pytest.approx(0.0, abs=0.1)
    assert count / rate_hz == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize(
    ("at_s", "for_s", "height", "said"),
    [
        (-1.0, 10.0, 60, "--at must be"),
        (float("nan"), 10.0, 60, "--at must be"),
        (0.0, 0.0, 60, "--seconds must be"),
        (0.0, 10.0, 59, "--video-height must be 60 to 720, or 0, not 59"),
    ],
)
def test_numbers_without_sense_are_refused(
    blind: Path, tmp_path: Path, at_s: float, for_s: float, height: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        view(blind, tmp_path, at_s, for_s, height, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_after_the_end_there_is_nothing(blind: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="nothing was recorded in the 600 s from --at 50 on"):
        made(blind, tmp_path, at_s=50.0)
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_would_be_too_large_is_left_out_and_that_is_said(
    two_cameras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_view, "MOST_FILM_BYTES", 2_000)
    path, data = made(two_cameras, tmp_path)
    assert data["film"] is None
    assert any(note.startswith("The film was left out:") for note in data["notes"])
    assert Parsed(path.read_text()).texts("script")[1] == ""


def test_an_image_that_is_none_costs_the_film_alone(tmp_path: Path) -> None:
    script = realistic(2.0, ())
    for i in range(3):
        frame = m.CompressedFrame(
            camera="cam_high", frame_id=i, exposure_ns=T0 + i * 100 * MS, width=8, height=8, jpeg=np.zeros(9, np.uint8)
        )
        script.send(T0 + i * 100 * MS, "camera/cam_high", frame)
    record(tmp_path, script, run_config()).close()
    _, data = made(tmp_path / "snack_loading-7.mcap", tmp_path)
    assert data["film"] is None
    assert any("the JPEG cannot be read" in note for note in data["notes"])
    assert len(column(data, "command.t")) == 400


def test_numbers_beyond_all_measure_do_no_harm(tmp_path: Path) -> None:
    script = realistic(2.0, ())
    splice = m.Splice(
        splice_id=1, chunk_id=1, intent_id=1, replaced_chunk_id=0, observation_ns=T0, spliced_ns=T0,
        inference_delay_steps=0, jump_rad=float("nan"),
    )  # fmt: skip
    script.send(T0 + 9 * MS, "splice", splice)
    record(tmp_path, script, run_config()).close()
    _, data = made(tmp_path / "snack_loading-7.mcap", tmp_path)
    assert None in [each[7] for each in data["splices"]], "no NaN in JSON"
    command = m.JointCommand(
        command_id=1, commanded_ns=2**63 + 5, position_rad=np.zeros(12), gripper_width_m=np.zeros(2),
        provenance=m.Provenance(source=m.Source.POLICY), intent_age_s=0.0, limited_joints=0,
    )  # fmt: skip
    script.send(T0 + 9 * MS, "command", command)
    (tmp_path / "far").mkdir()
    record(tmp_path / "far", script, run_config()).close()
    with pytest.raises(RecordingError, match="commanded_ns"):
        made(tmp_path / "far" / "snack_loading-7.mcap", tmp_path / "far")


# ---------------------------------------------------------------- the time of day


def test_a_run_by_the_clock_tells_the_time_of_day(tmp_path: Path) -> None:
    offset_ns = 1_790_000_000 * S
    run = msgspec.structs.replace(run_config(), wall_offset_ns=offset_ns)
    record(tmp_path, realistic(2.0, ()), run).close()
    _, data = made(tmp_path / "snack_loading-7.mcap", tmp_path)
    assert data["wall_ms"] == pytest.approx((T0 + offset_ns) / 1e6, abs=1.0)


def test_one_under_a_virtual_clock_does_not(blind: Path, tmp_path: Path) -> None:
    _, data = made(blind, tmp_path)
    assert data["wall_ms"] is None
    assert any("time of day" in note for note in data["notes"])


# ---------------------------------------------------------------- why the arms stood


def standing(folder: Path, rows: list[int], limited: int = 0, moves: bool = False) -> list[list[Any]]:
    """What is found in two seconds in which the policy commands ``rows`` of one chunk of 50, one for each tick."""
    script = Script()
    script.send(T0, "episode", m.EpisodeControl(action="start", name="e", issued_ns=T0))
    chunk = m.ActionChunk(
        task_id=1, chunk_id=7, intent_id=3, intent_observation_ns=T0, observation_ns=T0, period_ns=PERIOD,
        position_rad=np.zeros((50, 12), np.float32), gripper_width_m=np.zeros((50, 2), np.float32),
        inference_delay_steps=0,
    )  # fmt: skip
    script.send(T0 + MS, "chunk", chunk)
    for i, row in enumerate(rows):
        at = T0 + 5 * MS * (i + 1)
        provenance = m.Provenance(source=m.Source.POLICY, intent_id=3, chunk_id=7, chunk_row=row)
        command = m.JointCommand(
            command_id=i, commanded_ns=at, position_rad=np.full(12, 0.01 * i * moves), gripper_width_m=np.zeros(2),
            provenance=provenance, intent_age_s=0.1, limited_joints=limited,
        )  # fmt: skip
        script.send(at, "command", command)
    record(folder, script, run_config()).close()
    _, data = made(folder / "e.mcap", folder)
    return [finding for finding in data["findings"] if finding[3] in ("speed", "gate", "chunk")]


def test_arms_that_stand_because_no_chunk_came(tmp_path: Path) -> None:
    still, starved = sorted(standing(tmp_path, [49] * 400), key=lambda finding: finding[3], reverse=True)
    assert still[4] == "the arms stood for 2.0 s while the policy commanded"
    assert still[5] == "100% of its commands repeat the last row of a chunk: no newer one had come"
    assert starved[4].startswith("no newer chunk for 2.00 s: chunk 7")


def test_arms_that_stand_because_the_gate_limits_them(tmp_path: Path) -> None:
    said = {finding[3]: finding for finding in standing(tmp_path, [5] * 400, limited=0b10_0000_0000_0001)}
    assert said["speed"][5] == "the gate limited left joint 1, right gripper"
    assert said["gate"][4] == "the gate limited left joint 1, right gripper"


def test_arms_that_stand_because_the_policy_wants_to(tmp_path: Path) -> None:
    (still,) = standing(tmp_path, [5] * 400)
    assert still[5] == "1 chunk executed meanwhile wanted no motion"


def test_arms_that_move_are_not_found(tmp_path: Path) -> None:
    assert standing(tmp_path, [5] * 400, moves=True) == []


# ---------------------------------------------------------------- the script


def test_the_script_draws_least_and_most_and_knows_times() -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("no node here")
    series = Path(page_folder.__file__).parent / "series.js"
    done = subprocess.run(
        [node, str(Path(__file__).parent / "series_check.js"), str(series)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = json.loads(done.stdout)
    assert (said["most"], said["least"]) == (7, -3)
    assert said["drawn"] <= 4 * 101
    assert said["near"][:2] == [7, -3]
    assert said["near"][2] <= 25, "the samples themselves"
    assert said["times"] == [30, 31.5, 12.5, 120, None, None]
    assert said["of"] == "14:02:30.25"
    assert said["column"] == [1, -1]


def browsed(page: Path, profile: Path) -> tuple[Parsed, str]:
    """The page as a browser has made it, and what the browser said."""
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("no chromium here")
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=4000",
         "--window-size=1600,1200", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return Parsed(done.stdout), done.stderr


def test_a_browser_draws_it_without_a_complaint(episode: Path, tmp_path: Path) -> None:
    path, _ = made(episode, tmp_path)
    shown, said = browsed(path, tmp_path / "profile")
    assert "CONSOLE" not in said
    assert "HOLD: intent_stale" in shown.texts("span")


def test_the_film_and_the_playhead_lead_each_other(two_cameras: Path, tmp_path: Path) -> None:
    path, data = made(two_cameras, tmp_path)
    text = re.sub("<meta http-equiv[^>]*>", "", path.read_text())  # the test's own script may run
    steps = (Path(__file__).parent / "film_check.js").read_text()
    (tmp_path / "led.html").write_text(text.replace("</body>", f"<script>{steps}</script></body>"))
    shown, _ = browsed(tmp_path / "led.html", tmp_path / "profile")
    sought, at = json.loads(shown.texts("title")[0])
    assert sought == pytest.approx(1.5 - data["film"][0], abs=0.01)
    assert at == pytest.approx(0.5 + data["film"][0], abs=0.01)


def test_the_data_can_be_had_without_a_page(episode: Path) -> None:
    shown = read(Recording(episode), 0.0, 5.0)
    data = page_data(shown, None, ["a note"])
    assert data["notes"][-1] == "a note"
    assert shown.goes_on
    assert shown.episode.end_ns - shown.episode.start_ns <= to_ns(5.0)


def test_stretches_join_what_is_near_and_leave_out_what_is_short() -> None:
    at_ns = np.array([0, 10, 20, 30, 100, 110, 200, 300, 310, 320])
    holds = np.array([True, True, False, True, False, False, True, True, False, True])
    assert [each[2:] for each in stretches(at_ns, holds)] == [(0, 10), (30, 30), (200, 300), (320, 320)]
    assert [each[2:] for each in stretches(at_ns, holds, join_ns=20)] == [(0, 30), (200, 320)]
    assert [each[2:] for each in stretches(at_ns, holds, least_ns=50)] == [(200, 300)]
    assert stretches(at_ns, np.zeros(10, np.bool_)) == []
    assert stretches(at_ns[:0], holds[:0]) == []
