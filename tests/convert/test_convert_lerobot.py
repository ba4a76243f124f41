"""To LeRobotDataset v3 and back: the same rows, the same interventions, and tables as LeRobot reads them."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.convert.made import INSTRUCTION, RUN, assert_same_rows, record, run

from syvla import messages as m
from syvla.convert.found import Reading
from syvla.convert.lerobot_read import LeRobotDataset, LeRobotEpisode
from syvla.convert.ours import McapEpisode
from syvla.convert.rows import Grid
from syvla.errors import RecordingError
from syvla.recording.mcap_read import Recording


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("ours")
    return [record(folder / "one.mcap"), record(folder / "two.mcap", 1.5, outcome="failure")]


@pytest.fixture(scope="module")
def dataset(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lerobot") / "set"
    status, said = run(sources, out, "lerobot")
    assert status == 0, said
    return out


def test_rows_come_back_as_they_were_laid(sources: list[Path], dataset: Path) -> None:
    found = LeRobotDataset(dataset)
    assert len(found.episodes) == 2
    for path, place in zip(sources, found.episodes, strict=True):
        rows = assert_same_rows(McapEpisode(path), LeRobotEpisode(found, place), Grid(), pixel_error=4.0)
        assert rows == place.length > 30


def test_its_tables_are_those_of_the_format(dataset: Path) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["features"]["intervention"] == {"dtype": "bool", "shape": [1], "names": None}
    tasks = pq.read_table(dataset / "meta/tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "task": INSTRUCTION}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    episodes = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    begin = 0
    for number, episode in enumerate(episodes):
        data = pq.read_table(dataset / f"data/chunk-000/file-{number:03d}.parquet")
        assert (episode["dataset_from_index"], episode["dataset_to_index"]) == (begin, begin + len(data))
        assert data["index"].to_pylist() == list(range(begin, begin + len(data)))
        assert data["next.done"].to_pylist() == [False] * (len(data) - 1) + [True]
        assert data["next.success"].to_pylist()[-1] is (number == 0)
        np.testing.assert_allclose(data["timestamp"].to_numpy(), np.arange(len(data)) / 30, atol=1e-6)
        state = np.stack(data["observation.state"].to_numpy())
        np.testing.assert_allclose(episode["stats/observation.state/mean"], state.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(episode["stats/observation.state/std"], state.std(axis=0), rtol=1e-4)
        assert np.shape(episode["stats/observation.images.cam_high/mean"]) == (3, 1, 1)
        begin += len(data)
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert stats["action"]["count"] == [begin]
    assert info["total_frames"] == begin


def test_back_in_ours_it_has_messages_for_report_and_training(dataset: Path, tmp_path: Path) -> None:
    status, said = run([dataset], tmp_path / "back", "mcap")
    assert status == 0, said
    recording = Recording(tmp_path / "back/one.mcap")
    assert recording.outcome["outcome"] == "success"
    assert recording.attachments["run.json"] == RUN
    assert Recording(tmp_path / "back/two.mcap").outcome["outcome"] == "failure"
    commands = [r.message for r in recording.messages(["command"])]
    sources = [c.provenance.source for c in commands if isinstance(c, m.JointCommand)]
    assert set(sources) == {m.Source.UNKNOWN, m.Source.TELEOP}
    assert sources.count(m.Source.TELEOP) == 12
    assert {c.provenance.override_id for c in commands if isinstance(c, m.JointCommand)} == {-1, 1}
    rows = assert_same_rows(
        LeRobotEpisode(found := LeRobotDataset(dataset), found.episodes[0]),
        McapEpisode(tmp_path / "back/one.mcap"), Grid(), pixel_error=3.0,
    )  # fmt: skip
    assert rows == len(commands)


def test_another_rate_than_its_own_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="has 30 rows a second, not 50; rows are not resampled"):
        run([dataset], tmp_path / "out", "mcap", fps=50)
    assert not list(tmp_path.iterdir())


def test_cameras_of_another_name_must_be_told(dataset: Path, tmp_path: Path) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    for name in ("top", "wrist"):
        info["features"][f"observation.images.{name}"] = info["features"]["observation.images.cam_high"]
    strange = tmp_path / "strange"
    (strange / "meta").mkdir(parents=True)
    (strange / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(RecordingError, match="--camera cam_high=top"):
        LeRobotDataset(strange)
    status, said = run([strange], tmp_path / "out", "mcap", Reading(cameras={"cam_high": "tops"}))
    assert status == 2
    assert "has no camera 'tops' for cam_high; there are " in said


def test_success_is_told_only_where_it_is_known_of_all(sources: list[Path], tmp_path: Path) -> None:
    """False would say that an episode of which nobody knows had failed."""
    unknown = record(tmp_path / "three.mcap", 0.5, outcome="")
    assert run([*sources, unknown], tmp_path / "set", "lerobot")[0] == 0
    features = json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    columns = pq.read_schema(tmp_path / "set/data/chunk-000/file-000.parquet").names
    assert "next.success" not in {*features, *columns}
    found = LeRobotDataset(tmp_path / "set")
    assert [LeRobotEpisode(found, place).facts.outcome for place in found.episodes] == ["success", "failure", ""]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"codebase_version": "v2.1"}, "its version is 'v2.1'; 'v3.0' can be read"),
        ({"data_path": "../../{chunk_index.__class__}"}, "data_path must be"),
        ({"fps": 0}, "fps must be 1..240"),
        ({"total_episodes": 3}, "says 3 episodes, meta/episodes has 2"),
        ({"features": {}}, "observation.state must be 14 floats"),
    ],
)
def test_an_info_that_is_wrong_is_refused(dataset: Path, tmp_path: Path, change: dict[str, object], says: str) -> None:
    bad = tmp_path / "copy"
    bad.mkdir()
    for part in ("data", "videos"):
        (bad / part).symlink_to(dataset / part)
    (bad / "meta").mkdir()
    for part in ("tasks.parquet", "episodes", "stats.json"):
        (bad / "meta" / part).symlink_to(dataset / "meta" / part)
    info = json.loads((dataset / "meta/info.json").read_text())
    (bad / "meta/info.json").write_text(json.dumps({**info, **change}))
    with pytest.raises(RecordingError, match=says):
        LeRobotDataset(bad)
