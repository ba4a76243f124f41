"""The command: interrupted and taken up again, nothing overwritten, constant memory, one line for what is wrong."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.convert.made import assert_same_rows, record, run
from tests.convert.test_convert_aloha import foreign

from syvla.convert.aloha_read import AlohaEpisode
from syvla.convert.command import Target
from syvla.convert.found import Reading, expanded
from syvla.convert.journal import NAME, Journal, Plan, unique
from syvla.convert.lerobot_read import LeRobotDataset
from syvla.convert.making import Made, WriteError
from syvla.convert.ours import McapEpisode, McapWriter
from syvla.convert.rows import Grid
from syvla.errors import RecordingError
from syvla.recording.mcap_log import MAX_EPISODE_NAME


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def syvla(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "syvla.cli", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("to", ["lerobot", "aloha"])
def test_killed_and_asked_for_again_it_is_as_if_nothing_had_happened(tmp_path: Path, to: Target) -> None:
    (tmp_path / "in").mkdir()
    for i in range(4):
        record(tmp_path / f"in/{i}.mcap", 1.5)
    command = [sys.executable, "-m", "syvla.cli", "convert", str(tmp_path / "in"), str(tmp_path / "out"), "--to", to]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    journal = tmp_path / "out.partial" / NAME
    until = time.monotonic() + 60
    while time.monotonic() < until and killed.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 3:
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    killed.wait()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    lines = journal.read_bytes().splitlines(keepends=True)
    with journal.open("ab") as half:  # as if it had been killed in the middle of a line
        half.write(lines[-1][:40])
    status, said = run([tmp_path / "in"], tmp_path / "out", to)
    assert status == 0, said
    assert f"{len(lines) - 1} of 4 are in" in said
    status, _ = run([tmp_path / "in"], tmp_path / "at_once", to)
    assert status == 0
    taken_up, at_once = files(tmp_path / "out"), files(tmp_path / "at_once")
    assert taken_up.keys() == at_once.keys()
    if to == "aloha":  # HDF5 writes the time
        for name in taken_up:
            ours, theirs = (AlohaEpisode(tmp_path / folder / name) for folder in ("out", "at_once"))
            assert assert_same_rows(ours, theirs, Grid(), 0.0) > 30
            assert (ours.name, ours.fps, ours.facts) == (theirs.name, theirs.fps, theirs.facts)
    else:  # x264 does not give the same bytes every time
        assert {name: data for name, data in taken_up.items() if not name.endswith(".mp4")} == {
            name: data for name, data in at_once.items() if not name.endswith(".mp4")
        }


def test_half_made_files_of_a_killed_conversion_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [record(tmp_path / f"{i}.mcap", 1.0) for i in range(2)]
    run(sources, tmp_path / "set", "lerobot")
    whole, wrote = McapWriter.write, []

    def killed(self: McapWriter, number: int, *rest: object) -> Made:
        if number == 1:
            raise KeyboardInterrupt
        wrote.append(number)
        return whole(self, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(McapWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        run([tmp_path / "set"], tmp_path / "out", "mcap")
    (tmp_path / "out.partial/1.mcap").write_bytes(b"half")
    (tmp_path / "out.partial/1.mcap.partial").write_bytes(b"half")
    monkeypatch.setattr(McapWriter, "write", whole)
    status, said = run([tmp_path / "set"], tmp_path / "out", "mcap")
    assert (status, wrote) == (0, [0])
    assert "1 of 2 are in" in said
    assert sorted(files(tmp_path / "out")) == ["0.mcap", "1.mcap"]


_SMALL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from syvla.cli import main
main()
"""


@pytest.mark.parametrize("to", ["lerobot", "mcap"])
def test_a_full_disk_ends_the_conversion_which_can_go_on_later(tmp_path: Path, to: Target) -> None:
    lengths_s = (0.5, 6.0, 0.5)
    sources = [record(tmp_path / f"{i}.mcap", length_s, size=(240, 320)) for i, length_s in enumerate(lengths_s)]
    if to == "mcap":
        run(sources, tmp_path / "set", "aloha")
        sources = [tmp_path / "set"]
    arguments = ["convert", *map(str, sources), str(tmp_path / "out"), "--to", to]
    run(sources, tmp_path / "whole", to)
    limit = max(len(data) for data in files(tmp_path / "whole").values()) // 2
    done = subprocess.run(
        [sys.executable, "-c", _SMALL_DISK, str(limit), *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.endswith("what is done stays, and the same command goes on with it")
    assert not (tmp_path / "out").exists()
    status, said = run(sources, tmp_path / "out", to)
    assert status == 0
    assert "1 of 3 are in" in said


def test_hdf5_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = record(tmp_path / "one.mcap", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
        with pytest.raises(WriteError, match="the disk has only 1 MiB left"):
            run([source], tmp_path / "out", "aloha")
    assert [path.name for path in (tmp_path / "out.partial").iterdir()] == [NAME]
    assert run([source], tmp_path / "out", "aloha")[0] == 0


def test_another_conversion_does_not_go_on_with_a_half_made_one(tmp_path: Path) -> None:
    source = record(tmp_path / "one.mcap", 1.0)
    status, _ = run([source], tmp_path / "out", "aloha")
    half = (tmp_path / "out").rename(tmp_path / "out.partial")
    before = files(half)
    with pytest.raises(RecordingError, match="is there and is no conversion of ours"):
        run([source], tmp_path / "out", "aloha")
    status, _ = run([source], tmp_path / "other", "aloha")
    assert status == 0
    assert files(half) == before


def test_other_settings_or_sources_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = record(tmp_path / "one.mcap", 1.0)
    from syvla.convert.aloha_write import AlohaWriter

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AlohaWriter, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([source], tmp_path / "out", "aloha")
    monkeypatch.undo()
    before = files(tmp_path / "out.partial")
    with pytest.raises(RecordingError, match=r"half made of another conversion \(fps '30', not '25'\)"):
        run([source], tmp_path / "out", "aloha", fps=25)
    os.utime(source, (1, 1))
    with pytest.raises(RecordingError, match="half made of other sources, or they have changed"):
        run([source], tmp_path / "out", "aloha")
    assert files(tmp_path / "out.partial") == before


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    source = record(tmp_path / "one.mcap", 1.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    done = syvla("convert", str(source), str(tmp_path / "out"), "--to", "aloha")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"syvla: {tmp_path / 'out'}: exists already and is not overwritten"]
    assert files(tmp_path / "out") == {"mine": b"mine"}
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("{0}", "--to", "aloha"), "give at least one source, and then the folder to make"),
        (("{0}", "{1}", "--to", "aloha", "--fps", "0"), "fps must be 1 to 240, not 0"),
        (("{0}", "{1}", "--to", "aloha", "--jpeg", "96"), "jpeg must be 1 to 95, or 0 for raw images, not 96"),
        (("{0}", "{1}", "--to", "aloha", "--camera", "top=x"), "camera must be one of cam_high, cam_left_wrist,"),
        (("{0}", "{1}", "--to", "mcap", "--gripper-unit", "-1"), "gripper-unit must be 1e-6 to 10 m, not -1"),
        (("{0}", "{1}", "--to", "mcap", "--rig", "none"), "no rig 'none'; there are"),
    ],
)
def test_wrong_arguments_get_one_line(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    source = record(tmp_path / "one.mcap", 0.5)
    done = syvla("convert", *(a.format(source, tmp_path / "out") for a in arguments))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"syvla: {says}")
    assert [path.name for path in tmp_path.iterdir()] == ["one.mcap"]


def test_names_of_others_command_no_terminal_and_break_no_line(tmp_path: Path) -> None:
    """Names of files and of cameras in them, shown in a refusal and in the command's last words."""
    name = "\x1b]0;pwned\x07\nsyvla: all is well \u202e"
    folder = tmp_path / f"in{name}"
    folder.mkdir()
    foreign(
        folder / f"{name}.hdf5",
        lambda file: file.move("observations/images/cam_high", f"observations/images/{name * 99}"),
    )
    for sources in ([folder], [folder / "none\x1b[2J"], [folder, folder]):
        done = syvla("convert", *map(str, sources), str(tmp_path / "out"), "--to", "mcap", "--instruction", "x")
        assert done.returncode == 2
        lines = (done.stdout + done.stderr).removesuffix("\n").split("\n")
        assert len(lines) == len(sources)
        for line in lines:
            assert line.isprintable()
            assert len(line) < 1100


def test_a_file_whose_name_is_not_utf8_is_converted(tmp_path: Path) -> None:
    source = record(tmp_path / "one.mcap", 0.5).rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/o\xff.mcap")))
    assert run([source], tmp_path / "out", "aloha")[0] == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is nothing that can be converted"),
        (b"\x80\x04\x95cposix\nsystem\n", "is nothing that can be converted"),
        (b"\x89MCAP0\r\n", "ends at byte 8 of 8 without a summary"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "cannot be read as HDF5"),
        (b"SQLite format 3\x00" + bytes(200), "cannot be read as a ROS 2 bag"),
    ],
)
def test_a_foreign_file_is_refused_with_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    source = tmp_path / ("a.db3" if content.startswith(b"SQL") else "a.mcap")
    source.write_bytes(content)
    status, said = run([source], tmp_path / "out", "lerobot", grid=Grid(instruction="x"))
    assert status == 2
    assert says in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_a_bad_episode_is_refused_and_the_others_are_converted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    record(folder / "a.mcap", 1.0)
    record(folder / "b.mcap", 2.0, hole_s=(0.5, 1.4))
    record(folder / "c.mcap", 1.0, cameras=["cam_high"])
    record(folder / "d.mcap", 1.0)
    record(folder / "e.discarded.mcap", 1.0)
    status, said = run([folder], tmp_path / "out", "lerobot")
    assert status == 2
    refused = [line for line in said.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 2
    assert "camera/cam_high is 0.2" in refused[0]
    assert "its cameras are cam_high 64x48, those of the episodes before it" in refused[1]
    found = LeRobotDataset(tmp_path / "out")
    assert [name for name, _, _ in found.extra.episodes] == ["a", "d"] if found.extra else False
    assert not list((tmp_path / "out").rglob("*.part*")) + list((tmp_path / "out").rglob("*.jsonl"))
    assert len(list((tmp_path / "out/videos").rglob("*.mp4"))) == 6


@pytest.mark.parametrize("to", ["lerobot", "aloha"])
def test_without_cameras_there_and_back(tmp_path: Path, to: Target) -> None:
    source = record(tmp_path / "one.mcap", 1.0, cameras=[])
    assert run([source, source], tmp_path / "out", to)[0] == 0
    assert run([tmp_path / "out"], tmp_path / "back", "mcap")[0] == 0
    back = McapEpisode(tmp_path / "back/one.mcap")
    assert assert_same_rows(McapEpisode(source), back, Grid(), 0.0) == 30
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["one.mcap"]


def test_a_source_that_is_missing_does_not_keep_the_others(tmp_path: Path) -> None:
    sources = [tmp_path / "none.mcap", record(tmp_path / "one.mcap", 0.5), tmp_path / "empty"]
    (tmp_path / "empty").mkdir()
    status, said = run(sources, tmp_path / "out", "aloha")
    first, second, *_ = said.splitlines()
    assert (status, first) == (2, f"refused: {sources[0]}: No such file or directory")
    assert second.startswith(f"refused: {sources[2]}: there is nothing in it that can be converted")
    assert list(files(tmp_path / "out")) == ["episode_0.hdf5"]


def test_a_folder_of_data_sets_and_bags_is_looked_into(tmp_path: Path) -> None:
    run([record(tmp_path / "one.mcap", 1.0)], tmp_path / "all/set", "lerobot")
    run([record(tmp_path / "two.mcap", 1.0)], tmp_path / "all/more", "lerobot")
    assert run([tmp_path / "all"], tmp_path / "out", "mcap")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.mcap", "two.mcap"]


def test_a_folder_of_a_ros_run_has_each_episode_once(tmp_path: Path) -> None:
    """A bag lies beside its recording; a fault's last minute and what was thrown away are no episodes, unless named."""
    names = ("a.mcap", "b.repaired.mcap", "b.incomplete.mcap", "c.discarded.mcap", "fault-hot.mcap", "d.mcap.partial")
    for name in names:
        (tmp_path / name).write_bytes(b"\x89MCAP0\r\n")
    bags = ("a", "b.repaired", "c.discarded", "fault-hot", "alone")
    for name in bags:
        (tmp_path / f"{name}.rosbag2").mkdir()
        (tmp_path / f"{name}.rosbag2/metadata.yaml").touch()
    found = [path.name for path in expanded(tmp_path, Reading())]
    assert found == ["a.mcap", "alone.rosbag2", "b.repaired.mcap"]
    fault = tmp_path / "fault-hot.mcap"
    assert expanded(fault, Reading()) == [fault]


@pytest.mark.parametrize("head", [b"\x89HDF\r\n\x1a\n", b"\x89MCAP0\r\n\x01" + b"\xff" * 8])
def test_a_huge_file_is_not_read(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "huge"
    path.write_bytes(head)
    os.truncate(path, 2**36)
    begun_s = time.monotonic()
    status, said = run([path], tmp_path / "out", "aloha")
    assert (status, said[:9], len(said.splitlines())) == (2, "refused: ", 1)
    assert time.monotonic() - begun_s < 2.0


def test_names_that_come_again_are_told_apart() -> None:
    assert unique(["a", "b", "a", "a-2", "a"]) == ["a", "b", "a-2", "a-2-2", "a-3"]


def test_a_long_name_that_comes_again_is_still_a_name(tmp_path: Path) -> None:
    name = "x" * MAX_EPISODE_NAME
    assert unique([name] * 10_000)[-1] == f"{name[:-6]}-10000"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        run([record(tmp_path / f"{folder}/{name}.mcap", 0.5)], tmp_path / folder / "set", "lerobot")
    assert run([tmp_path / "a/set", tmp_path / "b/set"], tmp_path / "out", "mcap")[0] == 0
    assert sorted(files(tmp_path / "out")) == [f"{name[:-2]}-2.mcap", f"{name}.mcap"]


def test_two_conversions_into_the_same_folder_do_not_meet(tmp_path: Path) -> None:
    """The second is refused while the first is under way, and has everything it made afterwards."""
    plan = Plan({}, ["a"])
    with Journal(tmp_path / "out", plan) as first:
        (first.folder / "half.part").write_bytes(b"mine")
        with pytest.raises(RecordingError, match=r"out\.partial: another conversion into it is running"):
            Journal(tmp_path / "out", plan)
        assert (first.folder / "half.part").read_bytes() == b"mine"
    with Journal(tmp_path / "out", plan) as second:
        assert list(second.made()) == []
        second.finish()
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize("begun", [None, b"", b'{"settings":'])
def test_a_conversion_killed_before_its_first_line_begins_anew(tmp_path: Path, begun: bytes | None) -> None:
    (tmp_path / "out.partial").mkdir()
    if begun is not None:
        (tmp_path / "out.partial" / NAME).write_bytes(begun)
    assert run([record(tmp_path / "one.mcap", 0.5)], tmp_path / "out", "aloha")[0] == 0
    assert list(files(tmp_path / "out")) == ["episode_0.hdf5"]


def test_a_folder_of_somebody_is_left_alone(tmp_path: Path) -> None:
    half = tmp_path / "out.partial"
    half.mkdir()
    (half / NAME).write_bytes(b"")
    (half / "mine").write_bytes(b"mine")
    with pytest.raises(RecordingError, match="is there and is no conversion of ours"):
        run([record(tmp_path / "one.mcap", 0.5)], tmp_path / "out", "aloha")
    assert files(half) == {NAME: b"", "mine": b"mine"}


_MEASURE = """
import resource, sys
from pathlib import Path
from syvla.convert.command import Writing, convert
from syvla.convert.found import Reading
from syvla.convert.rows import Grid
from rich.console import Console
folder = Path(sys.argv[1])
status = convert([folder / sys.argv[2]], folder / sys.argv[3], Reading(), Writing(sys.argv[4], Grid()), Console())
print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("to", ["lerobot", "aloha"])
def test_a_long_episode_takes_no_more_memory_than_a_short_one(tmp_path: Path, to: Target) -> None:
    """Eight times as long, there and back: within 24 MB, where the pixels alone are 240 MB more."""
    peaks: dict[str, list[int]] = {"there": [], "back": []}
    for name, duration_s in (("short", 5.0), ("long", 40.0)):
        record(tmp_path / f"{name}.mcap", duration_s, cameras=["cam_high"], size=(240, 320))
        ways = (("there", f"{name}.mcap", f"{name}-{to}", to), ("back", f"{name}-{to}", f"{name}-back", "mcap"))
        for way, *arguments in ways:
            done = subprocess.run(
                [sys.executable, "-c", _MEASURE, str(tmp_path), *arguments],
                capture_output=True, text=True, timeout=200, check=True,
            )  # fmt: skip
            status, peak_kb = done.stdout.splitlines()[-1].split()
            assert status == "0", done.stdout
            peaks[way].append(int(peak_kb))
    for way, (short_kb, long_kb) in peaks.items():
        assert long_kb - short_kb < 24_000, (way, short_kb, long_kb)
