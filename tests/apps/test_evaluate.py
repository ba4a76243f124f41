"""Evaluation and demonstration in lockstep: the right statistics, and the same bytes for the same seed."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from syvla.apps.demonstrate import demonstrate, missing, write_wordings
from syvla.apps.director import Director, Episode, Outcome
from syvla.apps.evaluate import evaluate, rates, run_lockstep
from syvla.config import RunConfig
from syvla.errors import ConfigError
from syvla.messages import Mode, SafetyState
from syvla.proportion import difference, wilson
from syvla.protocols import Emit, Inbox, OnNew
from syvla.recording.mcap_read import read
from syvla.rig import lockstep_host
from syvla.runs import lockstep_run
from syvla.sim.tasks import ALL_TASKS
from syvla.sim.tasks.table_play import TablePlay
from syvla.topics import CAMERAS


class SafetyLog:
    """Notes the modes the gate went through."""

    name = "recorder"
    reads = ("safety",)
    writes: tuple[str, ...] = ()
    trigger = OnNew(("safety",))
    lossless = True
    stopped = True

    def __init__(self) -> None:
        self.modes: list[Mode] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        for message in inbox.new("safety"):
            assert isinstance(message, SafetyState)
            if self.modes[-1:] != [message.mode]:
                self.modes.append(message.mode)
        return ()

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


@pytest.fixture(scope="module")
def run() -> RunConfig:
    return lockstep_run("twin", 0.3, 0.03, "reference")


def test_a_difference_of_proportions_is_newcombes_published_one() -> None:
    assert difference((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference((48, 80), (56, 70)) == pytest.approx((-0.3339, -0.0524), abs=5e-5)
    assert difference((0, 0), (3, 5)) == (-1.0, 1.0), "nothing is known"


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Agresti and Coull's worked values, and the ends
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (38, 40, 0.8350, 0.9862),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-4)


def test_rates_are_by_task_and_split() -> None:
    def outcome(task: str, split: str, success: bool) -> Outcome:
        return Outcome(Episode(task, split, 0, "n"), "", success, 0.0, 10.0, "")

    table = rates([outcome("a", "id", True), outcome("b", "id", False), outcome("a", "id", False)])
    assert [(r.task, r.successes, r.episodes) for r in table] == [("a", 1, 2), ("b", 0, 1)]


@pytest.mark.parametrize("task", ["snack_loading", "math_packaging"])
@pytest.mark.parametrize("split", ["id", "ood_position", "ood_wording"])
def test_the_reference_policy_solves_every_split_with_both_latencies(run: RunConfig, task: str, split: str) -> None:
    outcome, _ = run_lockstep(run, Episode(task, split, 1, "n"))
    assert outcome.success, outcome.why


@pytest.mark.parametrize("cameras", [(), CAMERAS])
def test_the_same_seed_gives_the_same_recording_byte_for_byte(
    run: RunConfig, tmp_path: Path, cameras: tuple[str, ...]
) -> None:
    episode = Episode("snack_loading", "id", 5, "same", limit_s=2.0 if cameras else 60.0)
    for folder in ("one", "two"):
        list(demonstrate(run, [episode], tmp_path / folder, cameras))
    first, second = ((tmp_path / folder / "same.mcap").read_bytes() for folder in ("one", "two"))
    assert len(first) > 100_000
    assert first == second
    list(demonstrate(run, [episode._replace(seed=6)], tmp_path / "three", cameras))
    assert (tmp_path / "three" / "same.mcap").read_bytes() != first


def test_a_demonstration_that_is_there_is_not_run_again(run: RunConfig, tmp_path: Path) -> None:
    plan = [Episode("snack_loading", "id", seed, f"n-{seed}", limit_s=1.0) for seed in (1, 2)]
    list(demonstrate(run, plan[:1], tmp_path, ()))
    assert missing(plan, tmp_path) == plan[1:]


@pytest.mark.parametrize("task", ["snack_loading", "math_packaging", "table_play"])
def test_other_wordings_ask_for_the_same_and_keep_what_was_written_before(task: str, tmp_path: Path) -> None:
    plan = [Episode(task, "id", seed, f"n-{seed}") for seed in range(8)]
    write_wordings(plan[:4], tmp_path, 5)
    path = write_wordings(plan[2:], tmp_path, 10)
    wordings = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[str, ...]])
    asked = [ALL_TASKS[task].reset(e.seed, "id").instruction for e in plan]
    assert set(wordings) == set(asked)
    assert len(wordings[asked[0]]) == 5
    assert all(len(set(wordings[said])) == 10 for said in asked[2:])
    goal = TablePlay().goal
    for said, others in wordings.items():
        assert all(said != other for other in others)
        assert {goal(other) for other in others} == {goal(said)}


def test_wordings_that_cannot_be_read_are_named_and_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "wordings.json").write_bytes(b"[not json")
    with pytest.raises(ConfigError, match=r"wordings\.json cannot be read"):
        write_wordings([Episode("snack_loading", "id", 1, "n")], tmp_path, 3)
    assert (tmp_path / "wordings.json").read_bytes() == b"[not json"


def test_only_the_cameras_that_were_named_are_recorded(run: RunConfig, tmp_path: Path) -> None:
    list(demonstrate(run, [Episode("snack_loading", "id", 1, "n", limit_s=1.0)], tmp_path, ("cam_high",)))
    topics = {recorded.topic for recorded in read(tmp_path / "n.mcap")}
    assert {topic for topic in topics if topic.startswith("camera/")} == {"camera/cam_high"}
    with pytest.raises(ConfigError, match=r"cam_low.*cam_high"):
        list(demonstrate(run, [Episode("snack_loading", "id", 1, "m")], tmp_path, ("cam_low",)))


def test_episodes_in_a_row_on_one_robot_never_hold_it(run: RunConfig) -> None:
    episodes = [Episode(task, "id", seed, "n") for seed in (7, 8) for task in ("snack_loading", "math_packaging")]
    director, seen = Director(episodes), SafetyLog()
    host = lockstep_host(run, [director, seen])
    while not director.finished:
        host.run_until(host.now_ns + 100_000_000)
    host.stop()
    assert [outcome.why for outcome in director.outcomes] == ["", "", "", ""]
    assert seen.modes == [Mode.DISABLED, Mode.ENABLED]


def test_jobs_change_neither_the_outcomes_nor_their_order(run: RunConfig) -> None:
    plan = [Episode(task, "id", 3, "n", limit_s=1.0 + i) for i, task in enumerate(("snack_loading", "math_packaging"))]
    told: list[Outcome] = []
    alone = evaluate(run, plan, lambda outcome, wall_s: told.append(outcome))
    assert told == alone
    assert evaluate(run, plan, lambda outcome, wall_s: None, jobs=2) == alone


def test_an_error_in_a_job_is_the_users(run: RunConfig) -> None:
    gone = msgspec.structs.replace(run, policy_name="/nonexistent")
    with pytest.raises(ConfigError, match=r"/nonexistent/syvla\.json"):
        evaluate(gone, [Episode("snack_loading", "id", 0, "n")], lambda outcome, wall_s: None, jobs=2)


def test_the_reference_needs_its_instruction(run: RunConfig) -> None:
    blank = lockstep_run("twin", 0.3, 0.03, "reference", blank="instruction")
    outcome, _ = run_lockstep(blank, Episode("snack_loading", "id", 1, "n", limit_s=8.0))
    assert not outcome.success


def test_bad_choices_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="no policy 'genius'; there are reference"):
        lockstep_run("twin", 0.3, 0.03, "genius")
    with pytest.raises(ConfigError, match="planner latency must be 0 to 10 s"):
        lockstep_run("twin", float("nan"), 0.03, "reference")
