"""A planner that is kept from its instruction or its images, to see whether its success is really read from them."""

from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np

from syvla.messages import Intent, Observation, SimTruth, Task
from syvla.protocols import PartialThought, Planner


class BlankedPlanner:
    """``planner``, to which every instruction is empty or every image is black; all else is as it was."""

    def __init__(self, planner: Planner, blank: Literal["instruction", "images"]) -> None:
        self._planner = planner
        self._blank = blank
        self.model_id = planner.model_id
        self.reads_truth = planner.reads_truth

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        """Think about what is left."""
        if self._blank == "instruction":
            task = msgspec.structs.replace(task, instruction="")
        else:
            frames = tuple(msgspec.structs.replace(f, rgb=np.zeros_like(f.rgb)) for f in observation.frames)
            observation = msgspec.structs.replace(observation, frames=frames)
        return self._planner.think(observation, task, intent_id, truth)
