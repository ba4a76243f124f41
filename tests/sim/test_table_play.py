"""Table play: its own words, the whole table, one compiled model, and a demonstrator that manages."""

import math

import numpy as np
import pytest

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.control.kinematics import HOME_RAD
from syvla.errors import ConfigError
from syvla.runs import chosen_tasks, load_rig, lockstep_run
from syvla.sim.scene import Table
from syvla.sim.script import Script
from syvla.sim.tasks import TASKS
from syvla.sim.tasks.goal import Goal, LanguageEpisode
from syvla.sim.tasks.layout import spread
from syvla.sim.tasks.math_packaging import BOX, CANDIES, next_candy
from syvla.sim.tasks.snack_loading import SNACKS, TRAYS
from syvla.sim.tasks.table_play import TablePlay, on_table

SEEDS = range(400)
HANDS_M = np.array([[0.2, 0.3, 0.2], [0.2, -0.3, 0.2]])
PLAY = TablePlay()


@pytest.fixture(scope="module")
def episodes() -> list[LanguageEpisode]:
    return [PLAY.reset(seed, "id") for seed in SEEDS]


def start(episode: LanguageEpisode, inside: dict[str, str] | None = None, held: dict[str, str] | None = None) -> Table:
    scene = episode.scene
    places = [(*o.position_m, 1.0, 0.0, 0.0, 0.0) for o in scene.objects]
    places += [(*c.centre_m, 0.0, 1.0, 0.0, 0.0, 0.0) for c in scene.containers]
    return Table(
        scene.names,
        np.array(places),
        tuple((held or {}).get(name, "") for name in scene.names),
        tuple((inside or {}).get(name, "") for name in scene.names),
        HANDS_M,
    )


def test_it_is_chosen_by_name_only() -> None:
    assert chosen_tasks((), ("id",)) == tuple(TASKS)
    assert "table_play" not in TASKS
    assert chosen_tasks(("table_play",), ("id",)) == ("table_play",)
    with pytest.raises(ConfigError, match="no split 'ood_wording'; there are id"):
        chosen_tasks(("table_play",), ("ood_wording",))
    with pytest.raises(ConfigError, match="no split 'test'; there are id"):
        PLAY.reset(0, "test")


def test_an_episode_is_a_function_of_the_seed(episodes: list[LanguageEpisode]) -> None:
    for seed in (0, 17):
        again = PLAY.reset(seed, "id")
        assert (again.scene, again.instruction) == (episodes[seed].scene, episodes[seed].instruction)
    assert len({e.scene for e in episodes}) == len(SEEDS)


def test_one_compiled_model_serves_all_seeds(episodes: list[LanguageEpisode]) -> None:
    assert len({e.scene.layout for e in episodes}) == 1


def test_the_goal_is_read_from_the_words(episodes: list[LanguageEpisode]) -> None:
    for episode in episodes:
        assert PLAY.goal(episode.instruction) == episode.wanted, episode.instruction


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("The RED block into the carton!", Goal(BOX, ("red cube",), 1)),
        ("Load the white plate with two plus 1 candies.", Goal("white tray", CANDIES, 3)),
        ("Put 2 candies into the box. Then push it to the left.", Goal(BOX, CANDIES, 2, "left")),
        ("Put the red cube into the black tray. Then push it left.", Goal("black tray", ("red cube",), 1)),
        ("Put seven candies into the box.", None),
        ("Put some candies into the box.", None),
        ("Put the red cube away.", None),
        ("Put the red cube into the red tray.", None),
        ("", None),
    ],
)
def test_other_wordings(text: str, goal: Goal | None) -> None:
    assert PLAY.goal(text) == goal


def test_what_is_wanted_is_on_the_table(episodes: list[LanguageEpisode]) -> None:
    for episode in episodes:
        laid, wanted = on_table(episode.scene), episode.wanted
        assert wanted.container in laid
        assert set(wanted.candidates) <= set(laid)
        assert 4 <= sum(name in (*SNACKS, *CANDIES) for name in laid) <= 8
        assert (BOX in laid) != (set(TRAYS) <= set(laid))
        assert wanted.push is None or wanted.container == BOX


def test_every_kind_of_goal_comes_up(episodes: list[LanguageEpisode]) -> None:
    goals = {(e.wanted.container, e.wanted.candidates == CANDIES, e.wanted.push) for e in episodes}
    assert goals >= {(c, kind, None) for c in (*TRAYS, BOX) for kind in (True, False)}
    assert goals >= {(BOX, True, "left"), (BOX, True, "right")}
    assert {e.wanted.count for e in episodes if e.wanted.push} == {1, 2, 3, 4, 5}


def test_the_whole_reachable_table_is_used(episodes: list[LanguageEpisode]) -> None:
    spots = [o.position_m for e in episodes for o in e.scene.objects if o.name in on_table(e.scene)]
    x, y, _ = np.abs(np.array(spots)).T
    seen = np.array(spread(np.random.default_rng(0), "left", 4, False) * 2)
    assert x.max() > 0.40 > seen[:, 0].max()
    assert y.max() > 0.50 > seen[:, 1].max()
    counts, _, _ = np.histogram2d(x, y, bins=(3, 3), range=((0.12, 0.42), (0.22, 0.52)))
    assert (counts > 20).all()


def test_instructions_vary(episodes: list[LanguageEpisode]) -> None:
    assert len({e.instruction for e in episodes}) > 300
    text = " ".join(e.instruction for e in episodes).lower()
    assert all(word in text for word in ("block", "tin", "stick", "plate", "carton", "two plus one", "1 + 1"))


def test_success_needs_the_wanted_things_in_the_wanted_container(episodes: list[LanguageEpisode]) -> None:
    for episode in episodes[:100]:
        wanted = episode.wanted
        done = dict.fromkeys(wanted.candidates[: wanted.count], wanted.container)
        assert episode.progress(start(episode)) == 0.0
        assert not episode.success(start(episode))
        assert episode.success(start(episode, done)) == (wanted.push is None)
        extra = next(n for n in (*SNACKS, *CANDIES) if n not in done)
        assert not episode.success(start(episode, {**done, extra: wanted.container}))


def test_thoughts_name_what_comes_next(episodes: list[LanguageEpisode]) -> None:
    for episode in episodes[:100]:
        wanted = episode.wanted
        texts = {
            episode.chain_of_thought(start(episode)),
            episode.chain_of_thought(start(episode, held={wanted.candidates[0]: "left"})),
            episode.chain_of_thought(
                start(episode, dict.fromkeys(wanted.candidates[: wanted.count], wanted.container))
            ),
        }
        assert len(texts) == 3
        for text in texts:
            assert "None" not in text
            assert wanted.push is not None or "push" not in text


def test_the_thought_names_the_arm_that_fetches_first(episodes: list[LanguageEpisode]) -> None:
    of_candies = [e for e in episodes if e.wanted.candidates == CANDIES]
    for episode in of_candies[:40]:
        table = start(episode)
        script = Script(load_rig("twin"), episode.wanted, episode.scene, table)
        waypoints = script.step(table, np.array([*HOME_RAD, 0.05] * 2))
        first = next(w for w in waypoints if w.after == 0 and w.number > 2)  # 1 and 2 are the way home
        assert f"the {first.arm} arm packs" in episode.chain_of_thought(table)
        candy = table.position_m(next_candy(episode.wanted, table))
        assert math.dist(first.position_m[:2], candy[:2].tolist()) < 1e-9


def test_a_hand_that_closes_on_nothing_is_nearest_to_what_it_wants(episodes: list[LanguageEpisode]) -> None:
    """Otherwise the thought, which is of the candy nearest to the hand, would be of another than the hand goes for."""
    missed = 0
    for episode in [e for e in episodes if e.wanted.candidates == CANDIES][:60]:
        table = start(episode)
        script = Script(load_rig("twin"), episode.wanted, episode.scene, table, misses=1.0)
        waypoints = script.step(table, np.array([*HOME_RAD, 0.05] * 2))
        first = next(w for w in waypoints if w.after == 0 and w.number > 2)
        if first.mistaken:
            missed += 1
            wanted = table.position_m(next_candy(episode.wanted, table))
            nearest = min((table.position_m(n) for n in CANDIES), key=lambda p: math.dist(first.position_m[:2], p[:2]))
            assert nearest.tolist() == wanted.tolist()
    assert missed > 20


def test_the_demonstrator_manages() -> None:
    run = lockstep_run("twin", 0.0, 0.0, "reference")
    outcomes = [run_lockstep(run, Episode("table_play", "id", seed, f"play-{seed}"))[0] for seed in range(6)]
    assert sum(outcome.success for outcome in outcomes) >= 5, [o.words for o in outcomes]
