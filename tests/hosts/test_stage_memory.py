"""What a stage remembers: all of it comes back, and nothing that was not remembered can be put there."""

import ast
import inspect
from collections import deque
from typing import Any

import msgspec
import numpy as np
import pytest

from syvla.control import arbiter, gate, limiter, timeline
from syvla.errors import RecordingError
from syvla.hosts.memory import capture, restore
from syvla.messages import ArmState, Mode, Task
from syvla.stages import expert, planner, robot

CLASSES = (
    arbiter.Arbiter,
    gate.Gate,
    limiter.Limiter,
    timeline.Timeline,
    expert.ExpertStage,
    expert.InferenceDelay,
    planner.PlannerStage,
    robot.RobotStage,
)
MUTATORS = {"append", "add", "clear", "pop", "popleft", "update", "extend", "insert", "remove", "discard", "setdefault"}
# what follows from configuration and devices alone, or is overwritten before it is read
NOT_STATE = {
    "_joints": "the limits, narrowed again from the devices' own",
    "_least": "likewise",
    "_most": "likewise",
    "_powers": "written before each use",
    "remembered": "which attributes these are",
}


def changed_in_use(kind: type) -> set[str]:
    """The attributes of ``kind`` that its methods other than ``__init__`` assign or mutate."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found: set[str] = set()
    for method in definition.body:
        if not isinstance(method, ast.FunctionDef) or method.name == "__init__":
            continue
        for node in ast.walk(method):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
                targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
                found |= {name for target in targets for name in own_attributes(target)}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
                found |= own_attributes(node.func.value)
    return found


def own_attributes(target: ast.AST) -> set[str]:
    """``x`` of ``self.x``, ``self.x[...]`` and tuples of them."""
    if isinstance(target, ast.Tuple):
        return {name for each in target.elts for name in own_attributes(each)}
    while isinstance(target, ast.Subscript):
        target = target.value
    own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    return {target.attr} if own and isinstance(target, ast.Attribute) else set()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_whatever_changes_in_use_is_remembered(kind: Any) -> None:
    forgotten = changed_in_use(kind) - set(kind.remembered) - NOT_STATE.keys()
    assert not forgotten, f"{kind.__name__}.remembered lacks {', '.join(sorted(forgotten))}"
    assert changed_in_use(kind), "or nothing was looked at"


class Inner:
    """Part of a stage."""

    remembered = ("count", "pose", "newest")

    def __init__(self) -> None:
        self.count = 0
        self.pose: Any = None
        self.newest: Any = None
        self.limit = 3  # configuration


class Outer:
    """A stage with one of everything."""

    remembered = ("inner", "again", "mode", "names", "window", "seen", "by_arm", "task", "same_task", "waited_s")

    def __init__(self) -> None:
        self.inner = Inner()
        self.again = self.inner
        self.mode = Mode.DISABLED
        self.names: list[str | None] = []
        self.window: deque[int] = deque(maxlen=3)
        self.seen: set[int] = set()
        self.by_arm: dict[str, tuple[int, str]] = {}
        self.task: Task | None = None
        self.same_task: Task | None = None
        self.waited_s = 0.0
        self.recalled_with: Any = None

    def recalled(self) -> None:
        self.recalled_with = self.inner.count


def lived() -> Outer:
    """One in which something has happened."""
    outer = Outer()
    outer.inner.count, outer.inner.pose, outer.inner.limit = 7, np.array([[0.1, 1e-300], [-0.0, 3.0]]), 99
    outer.inner.newest = ArmState(
        arm="left", measured_ns=5, position_rad=np.arange(6.0), velocity_rad_s=np.zeros(6), effort_nm=np.zeros(6),
        gripper_width_m=0.02, enabled=True,
    )  # fmt: skip
    outer.mode, outer.names = Mode.HOLD, ["left", None]
    outer.window.extend((1, 2, 3, 4))
    outer.seen |= {5, 3}
    outer.by_arm["left"] = (4, "late")
    outer.task = outer.same_task = Task(task_id=1, instruction="wave", issued_ns=3)
    outer.waited_s = 0.1 + 0.2
    return outer


def test_everything_comes_back_and_two_names_of_one_thing_stay_so() -> None:
    old, new = lived(), Outer()
    inner = new.inner
    restore(new, capture(old))
    assert new.inner is inner
    assert new.again is inner
    assert (inner.count, inner.limit, new.recalled_with) == (7, 3, 7)
    assert inner.pose.tobytes() == old.inner.pose.tobytes()
    assert inner.newest.position_rad.tolist() == list(range(6))
    assert new.mode is Mode.HOLD
    assert (new.names, new.seen, new.by_arm) == (old.names, old.seen, old.by_arm)
    assert new.window == deque((2, 3, 4))
    assert new.window.maxlen == 3
    assert new.task is new.same_task
    assert new.task is not None
    assert new.task.instruction == "wave"
    assert new.waited_s == old.waited_s
    assert capture(new) == capture(old)


def test_what_is_anew_stays_as_it_was_built() -> None:
    new = Outer()
    restore(new, capture(lived()), anew=("inner", "again"))
    assert new.inner.count == 0
    assert new.mode is Mode.HOLD


def test_what_cannot_be_remembered_is_named() -> None:
    outer = Outer()
    outer.names = [object()]  # type: ignore[list-item]
    with pytest.raises(TypeError, match="names holds a object"):
        capture(outer)


def damaged(change: Any) -> bytes:
    objects = msgspec.msgpack.decode(capture(lived()))
    change(objects)
    return msgspec.msgpack.encode(objects)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode([["Outer", {}]]),
        msgspec.msgpack.encode([["os.system", {"command": "true"}]]),
        damaged(lambda o: o[0][1].update(mode=["enum", "Event", "hold"])),
        damaged(lambda o: o[0][1].update(mode="hold")),
        damaged(lambda o: o[0][1].update(waited_s="long")),
        damaged(lambda o: o[0][1].update(inner=["object", 400])),
        damaged(lambda o: o[0][1].update(inner=5)),
        damaged(lambda o: o[0][1].update(seen=["call", ["os.system"]])),
        damaged(lambda o: o[0][1].update(seen=["set", [["list", []]]])),
        damaged(lambda o: o[0].append(1)),
        damaged(lambda o: o[1][1].update(pose=["array", "|O", [1], b"12345678"])),
        damaged(lambda o: o[1][1].update(pose=["array", "<f8", [2**40], b"12345678"])),
        damaged(lambda o: o[2].__setitem__(1, [b"\x80"])),
    ],
)
def test_a_memory_that_is_not_one_is_refused(data: bytes) -> None:
    with pytest.raises(RecordingError, match="a stage's memory cannot be restored"):
        restore(Outer(), data)
