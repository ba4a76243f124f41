"""A learner and the demonstrator in turn."""

import itertools
from collections.abc import Iterator

import numpy as np

from syvla.clock import to_ns, to_s
from syvla.message import Float64
from syvla.messages import FEATURE_QUERIES, ActionChunk, Intent, Observation, SimReset, SimTruth, Task
from syvla.protocols import PartialThought
from syvla.runs import load_rig
from syvla.sim.reference import MODEL_ID, ReferencePlanner
from syvla.sim.takeover import DEMONSTRATOR_S, LEARNER_S, TakeoverExpert, TakeoverPlanner
from syvla.sim.tasks import TASKS
from syvla.sim.world import TwinWorld

RIG = load_rig("twin")


class Learner:
    """Wants nothing, and knows only what it is shown."""

    model_id = "learner"
    reads_truth = False

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        assert truth is None
        yield Intent(
            intent_id=intent_id,
            task_id=task.task_id,
            observation_ns=observation.observation_ns,
            chain_of_thought="",
            feature_query_states=np.zeros((FEATURE_QUERIES, 4), np.float16),
            model_id=self.model_id,
        )


def who_leads(seed: int, seconds: float) -> list[str]:
    """The model of every intent of an episode that nobody carries out, one each 0.1 s."""
    world = TwinWorld(RIG, TASKS)
    world.reset(SimReset(reset_id=1, task="snack_loading", split="id", seed=seed))
    planner = TakeoverPlanner(Learner(), ReferencePlanner(RIG, TASKS))
    truth, found = world.truth(0), []
    measured = [world.plant(arm).measured() for arm in ("left", "right")]
    senses = np.concatenate([np.append(position, width) for position, _, _, width in measured])
    for k in range(round(10 * seconds)):
        seen = Observation(observation_ns=k * to_ns(0.1), proprioception=senses, frames=(), source_age_s={})
        order = Task(task_id=1, instruction=truth.instruction, issued_ns=0)
        (intent,) = [p for p in planner.think(seen, order, k, truth) if isinstance(p, Intent)]
        found.append(intent.model_id)
    return found


def test_the_demonstrator_begins_and_ends_and_the_learner_has_turns_between() -> None:
    led = who_leads(0, 120.0)
    assert led[0] == led[-1] == MODEL_ID
    changes = [k for k in range(1, len(led)) if led[k] != led[k - 1]]
    turns_s = [to_s(to_ns(0.1)) * (b - a) for a, b in itertools.pairwise(changes)]
    assert all(LEARNER_S[0] - 0.1 < turn_s < LEARNER_S[1] + 0.2 for turn_s in turns_s[::2])
    assert all(DEMONSTRATOR_S[0] - 0.1 < turn_s < DEMONSTRATOR_S[1] + 0.2 for turn_s in turns_s[1::2])
    assert len(turns_s) == 11


def test_the_turns_are_the_episodes_own() -> None:
    assert who_leads(0, 20.0) == who_leads(0, 20.0)
    assert who_leads(0, 20.0) != who_leads(1, 20.0)


class Expert:
    """Says who it is by the length of its chunks."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def act(
        self,
        intent: Intent,
        observation_ns: int,
        proprioception: Float64,
        committed: ActionChunk | None,
        chunk_id: int,
        inference_delay_steps: int,
    ) -> ActionChunk:
        return ActionChunk(
            chunk_id=chunk_id,
            task_id=intent.task_id,
            intent_id=intent.intent_id,
            intent_observation_ns=intent.observation_ns,
            observation_ns=observation_ns,
            period_ns=to_ns(0.03),
            position_rad=np.zeros((self.rows, 12), np.float32),
            gripper_width_m=np.zeros((self.rows, 2), np.float32),
            inference_delay_steps=inference_delay_steps,
        )


def test_an_intent_is_carried_out_by_its_makers_own_expert() -> None:
    expert = TakeoverExpert(Expert(3), Expert(5), MODEL_ID)
    for model_id, rows in (("learner", 3), (MODEL_ID, 5)):
        intent = Intent(
            intent_id=0,
            task_id=0,
            observation_ns=0,
            chain_of_thought="",
            feature_query_states=np.zeros((FEATURE_QUERIES, 4), np.float16),
            model_id=model_id,
        )
        assert len(expert.act(intent, 0, np.zeros(14), None, 0, 0).position_rad) == rows
