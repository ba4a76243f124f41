"""The twin's tasks, by name."""

from collections.abc import Mapping

from syvla.sim.tasks.goal import LanguageTask
from syvla.sim.tasks.math_packaging import MathPackaging
from syvla.sim.tasks.snack_loading import SnackLoading
from syvla.sim.tasks.table_play import TablePlay

TASKS: Mapping[str, LanguageTask] = {task.name: task for task in (SnackLoading(), MathPackaging())}
_PLAY = TablePlay()
ALL_TASKS: Mapping[str, LanguageTask] = {**TASKS, _PLAY.name: _PLAY}  # with what is for pre-training only
