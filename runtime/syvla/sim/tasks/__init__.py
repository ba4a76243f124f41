"""The twin's tasks, by name."""

from collections.abc import Mapping

from syvla.sim.tasks.goal import LanguageTask
from syvla.sim.tasks.math_packaging import MathPackaging
from syvla.sim.tasks.snack_loading import SnackLoading

TASKS: Mapping[str, LanguageTask] = {task.name: task for task in (SnackLoading(), MathPackaging())}
