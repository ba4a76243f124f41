"""Four ways to go on from the chunk that is being executed."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests.models.policies import MS, PERIOD_NS, POSE, an_intent, chunk_of
from tests.models.test_learned_expert import Noting, act, rows_of

from syvla.config import Continuity, RigConfig
from syvla.errors import ConfigError
from syvla.hosts.memory import capture, restore
from syvla.message import Float64
from syvla.messages import Intent
from syvla.runs import load_rig, lockstep_run
from syvla_models.actions import action_space
from syvla_models.continuity import OLDER_COUNT_LESS
from syvla_models.learned_expert import LearnedExpert
from syvla_models.spec import SLOTS, load_spec

MOVING = POSE + np.linspace(0.0, 0.1, 50)[:, None] * 0.2
START_NS = 400 * MS - 3 * PERIOD_NS  # row 3 is due at the observation


@pytest.fixture
def made(folder: Path, rig: RigConfig) -> Callable[[str], LearnedExpert]:
    def make(continuity: str) -> LearnedExpert:
        return LearnedExpert(folder, rig, 1, "eager", continuity)  # type: ignore[arg-type]

    return make


def joined(expert: LearnedExpert, intent: Intent, delay: int = 4) -> Float64:
    return rows_of(act(expert, intent, committed=chunk_of(MOVING, START_NS), delay=delay))


@pytest.mark.parametrize("continuity", get_args(Continuity))
def test_a_first_chunk_begins_where_the_arms_stand(
    made: Callable[[str], LearnedExpert], intent: Intent, continuity: str
) -> None:
    assert rows_of(act(made(continuity), intent))[0] == pytest.approx(POSE, abs=1e-5)


def test_each_goes_on_in_its_own_way(made: Callable[[str], LearnedExpert], intent: Intent) -> None:
    found = {name: joined(made(name), intent) for name in get_args(Continuity)}
    going = MOVING[3:]
    off = {name: np.abs(rows[:5] - going[:5]).max() for name, rows in found.items()}
    assert off["prefix"] < 1e-5, "given clean: these rows and the one after them"
    assert 1e-5 < off["guided"] < off["replace"], "pulled towards it"
    assert np.allclose(found["ensemble"], found["replace"]), "of one chunk, the average is itself"
    later = {name: np.abs(rows[30:47] - going[30:47]).max() for name, rows in found.items()}
    assert min(later.values()) > 1e-3, "what is far away is decided anew"


def test_an_ensemble_is_the_weighted_average_of_all_that_was_said_about_an_instant(
    folder: Path, rig: RigConfig, intent: Intent
) -> None:
    space = action_space(load_spec(folder).action, rig.safety)
    backend = Noting(np.zeros((50, SLOTS), np.float32))
    expert = LearnedExpert(folder, rig, 1, backend, "ensemble")

    def say(value: float, periods: int, task_id: int = 1) -> Float64:
        rows = POSE + value * np.linspace(0.0, 1.0, 50)[:, None]
        backend.rows = space.encode(rows, POSE)
        asked = an_intent(folder, task_id=task_id)
        return rows_of(act(expert, asked, 400 * MS + periods * PERIOD_NS, POSE, chunk_of(MOVING, START_NS)))

    first = say(0.01, 0)
    assert first == pytest.approx(POSE + 0.01 * np.linspace(0.0, 1.0, 50)[:, None], abs=1e-6)
    second = say(0.02, 5)
    row = 7  # 12 rows into the first chunk
    old, new, weight = POSE + 0.01 * 12 / 49, POSE + 0.02 * 7 / 49, np.exp(-OLDER_COUNT_LESS)
    assert second[row] == pytest.approx((old + weight * new) / (1.0 + weight), abs=1e-6)
    assert second[47] == pytest.approx(POSE + 0.02 * 47 / 49, abs=1e-6), "the first one ends before that"
    assert say(0.015, 10, task_id=2) == pytest.approx(POSE + 0.015 * np.linspace(0.0, 1.0, 50)[:, None], abs=1e-6)


def test_what_an_ensemble_has_heard_is_remembered(folder: Path, rig: RigConfig, intent: Intent) -> None:
    """A recording of it could not be repeated from its middle: the chunks of before were in nobody's memory."""

    def made() -> tuple[LearnedExpert, Noting]:
        backend = Noting(np.zeros((50, SLOTS), np.float32))
        return LearnedExpert(folder, rig, 1, backend, "ensemble"), backend

    def go_on(expert: LearnedExpert, backend: Noting) -> Float64:
        backend.rows = np.full((50, SLOTS), 0.1, np.float32)
        committed = chunk_of(MOVING, START_NS)
        return rows_of(act(expert, intent, 400 * MS + 2 * PERIOD_NS, POSE, committed))

    heard, restored = made(), made()
    act(heard[0], intent, 400 * MS, POSE, chunk_of(MOVING, START_NS))
    restore(restored[0], capture(heard[0]))
    found = go_on(*restored)
    assert np.array_equal(found, go_on(*heard))
    assert not np.allclose(found, go_on(*made())), "it is not the same without"


def test_guidance_needs_a_gradient(folder: Path, rig: RigConfig) -> None:
    with pytest.raises(ConfigError, match="continuity 'guided' needs a gradient: backend eager, not noting"):
        LearnedExpert(folder, rig, 1, Noting(np.zeros((50, SLOTS), np.float32)), "guided")
    with pytest.raises(ConfigError, match="continuity must be one of prefix, guided, ensemble, replace, not 'magic'"):
        LearnedExpert(folder, rig, 1, "eager", "magic")  # type: ignore[arg-type]
    run = lockstep_run("twin", 0.3, 0.03, str(folder), continuity="guided")
    assert (run.backend, run.policy.continuity) == ("eager", "guided")


def test_replacing_is_softened_by_nothing(folder: Path) -> None:
    assert lockstep_run("twin", 0.3, 0.03, str(folder), continuity="replace").rig.control.blend_s == 0.0
    assert lockstep_run("twin", 0.3, 0.03, str(folder)).rig.control.blend_s == load_rig("twin").control.blend_s > 0.0
