"""A small closed loop for tests: world, reference planner and expert, set-points interpolated from chunks."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from syvla.control.kinematics import Base, arm_distance_m
from syvla.messages import ActionChunk, Float64, Intent, Observation, SimReset, Task
from syvla.rig import load_rig
from syvla.sim.reference import ReferenceExpert, ReferencePlanner
from syvla.sim.tasks import TASKS
from syvla.sim.world import TwinWorld

RIG = load_rig("twin")
STEP_NS = 5_000_000
_BASES = (Base.of(RIG.left), Base.of(RIG.right))


class Result(NamedTuple):
    """How an episode went."""

    success: bool
    duration_s: float
    least_distance_m: float
    farthest_first_row_rad: float


class Loop:
    """One twin with the reference policy on it; episodes follow one another without a reset of the arms."""

    def __init__(self) -> None:
        self.world = TwinWorld(RIG, TASKS)
        self.planner = ReferencePlanner(RIG)
        self.expert = ReferenceExpert(RIG)
        self.now_ns = 0
        self._episodes = 0
        self._chunks = 0

    def proprioception(self) -> Float64:
        """Both arms as measured, (14,)."""
        states = [self.world.plant(arm).measured() for arm in ("left", "right")]
        return np.concatenate([np.append(position, width) for position, _, _, width in states])

    def run(
        self,
        task: str,
        seed: int,
        split: str = "id",
        planner_s: float = 0.0,
        expert_s: float = 0.0,
        instruction: str | None = None,
        limit_s: float = 60.0,
        disturb: Callable[[float, "Loop"], bool] | None = None,
    ) -> Result:
        """One episode. ``disturb`` is called every 5 ms with the episode's time; True: the arms do not obey."""
        self._episodes += 1
        start_ns = self.now_ns
        self.world.reset(SimReset(reset_id=self._episodes, task=task, split=split, seed=seed))
        wanted = instruction or self.world.truth(start_ns).instruction
        order = Task(task_id=self._episodes, instruction=wanted, issued_ns=start_ns)
        intents: list[tuple[int, Intent]] = []
        chunks: list[tuple[int, ActionChunk]] = []
        intent, chunk = None, None
        next_plan_ns = next_act_ns = start_ns
        least_m, first_row_rad = math.inf, 0.0
        while self.now_ns < start_ns + limit_s * 1e9:
            now_ns = self.now_ns
            self.world.advance(now_ns)
            if now_ns >= next_plan_ns:
                truth = self.world.truth(now_ns)
                if truth.success:
                    return Result(True, (now_ns - start_ns) / 1e9, least_m, first_row_rad)
                senses = Observation(
                    observation_ns=now_ns, proprioception=self.proprioception(), frames=(), source_age_s={}
                )
                products = self.planner.think(senses, order, now_ns // STEP_NS, truth)
                intents += [(now_ns + round(planner_s * 1e9), p) for p in products if isinstance(p, Intent)]
                next_plan_ns = now_ns + max(round(planner_s * 1e9), 50_000_000)
            while intents and intents[0][0] <= now_ns:
                intent = intents.pop(0)[1]
            if now_ns >= next_act_ns and intent is not None:
                measured = self.proprioception()
                new = self.expert.act(intent, now_ns, measured, chunk, self._chunks, round(expert_s * 30))
                self._chunks += 1
                joints = np.concatenate((measured[:6], measured[7:13]))
                first_row_rad = max(first_row_rad, float(np.abs(new.position_rad[0] - joints).max()))
                chunks.append((now_ns + round(expert_s * 1e9), new))
                next_act_ns = now_ns + 50_000_000
            while chunks and chunks[0][0] <= now_ns:
                chunk = chunks.pop(0)[1]
            obeys = not (disturb is not None and disturb((now_ns - start_ns) / 1e9, self))
            if chunk is not None and obeys:
                self._command(chunk, now_ns)
            if (now_ns - start_ns) % (8 * STEP_NS) == 0:
                q = self.proprioception()
                least_m = min(least_m, arm_distance_m(q[:6], q[7:13], *_BASES))
            self.now_ns += STEP_NS
        return Result(False, limit_s, least_m, first_row_rad)

    def _command(self, chunk: ActionChunk, now_ns: int) -> None:
        rows = np.concatenate((chunk.position_rad, chunk.gripper_width_m), axis=1, dtype=np.float64)
        at = min((now_ns - chunk.observation_ns) / chunk.period_ns, len(rows) - 1.001)
        row = rows[int(at)] + (at - int(at)) * (rows[int(at) + 1] - rows[int(at)])
        self.world.plant("left").target(row[:6], float(row[12]))
        self.world.plant("right").target(row[6:12], float(row[13]))
