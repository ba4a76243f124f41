"""Directs episodes on the twin as an operator would: lay the table, enable, state the task, watch, mark the outcome.

The director is a stage, so the same script runs at real time over the bus and in lockstep.
"""

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from syvla.clock import to_ns, to_s
from syvla.messages import (
    EpisodeControl,
    Mode,
    OperatorCommand,
    SafetyState,
    SimReset,
    SimTruth,
    Task,
)
from syvla.protocols import Emit, Inbox, Periodic

PERIOD_NS = 50_000_000
SETTLE_S = 0.5  # success must last this long
GAP_S = 0.5  # between episodes
PREPARE_LIMIT_S = 20.0  # for the twin to lay the table and the arms to be enabled
REPEAT_S = 1.0  # an operator command that had no effect is given again
HOLD_LIMIT_S = 1.0  # a held episode has failed
HELD = (Mode.HOLD, Mode.SOFT_STOP, Mode.FAULT)


Mark = Literal["success", "failure", "discard"]
MARKED: dict[Mark, str] = {"success": "", "failure": "a person called it a failure", "discard": "discarded by a person"}


class Episode(NamedTuple):
    """One episode to run; ``name`` is its recording's."""

    task: str
    split: str
    seed: int
    name: str
    limit_s: float = 60.0


class Outcome(NamedTuple):
    """How an episode ended; ``why`` is empty for a success."""

    episode: Episode
    instruction: str
    success: bool
    progress: float
    duration_s: float
    why: str
    ran: bool = True  # whether the task was stated to enabled arms

    @property
    def words(self) -> str:
        """In one line."""
        verdict = "done" if self.success else f"NOT DONE ({self.why})"
        return f"{self.episode.name}: {verdict} in {self.duration_s:.1f} s"


class _Phase(enum.Enum):
    LAY = "lay"
    ENABLE = "enable"
    RUN = "run"
    GAP = "gap"
    DONE = "done"


class Director:
    """Runs ``episodes`` one after the other; ``outcomes`` grows, ``finished`` says when all is over.

    Where it is ``attended`` by a person at a joystick, what latched is that person's to clear: a hold ends no episode,
    and the next one waits for it.
    """

    name = "console"
    reads = ("sim/truth", "safety", "teleop/episode")
    writes = ("task", "operator", "episode", "sim/reset")
    trigger = Periodic(PERIOD_NS)
    lossless = False

    def __init__(self, episodes: Sequence[Episode], attended: bool = False) -> None:
        self._attended = attended
        self.outcomes: list[Outcome] = []
        self._waiting = list(episodes)
        self._episode: Episode | None = None
        self._phase = _Phase.GAP
        self._phase_ns: int | None = None
        self._resets = 0
        self._tasks = 0
        self._commands = 0
        self._operator_ns: int | None = None
        self._success_since_ns: int | None = None
        self._held_since_ns: int | None = None
        self._marked: Mark | None = None

    @property
    def finished(self) -> bool:
        """Whether every episode has an outcome."""
        return self._phase is _Phase.DONE

    @property
    def left(self) -> int:
        """How many episodes have no outcome yet."""
        return len(self._waiting) + (self._episode is not None and self._phase is not _Phase.GAP)

    @property
    def current(self) -> Episode | None:
        """The episode that is being prepared or run."""
        return self._episode

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Advance the script."""
        if self._phase_ns is None:
            self._phase_ns = now_ns - to_ns(GAP_S)
        truth = inbox.get("sim/truth")
        safety = inbox.get("safety")
        asked = inbox.get("teleop/episode")
        if isinstance(asked, EpisodeControl) and asked.issued_ns >= self._phase_ns and asked.action != "start":
            self.mark(asked.action)
        return list(
            self._advance(
                now_ns,
                truth if isinstance(truth, SimTruth) else None,
                safety if isinstance(safety, SafetyState) else None,
            )
        )

    def mark(self, action: Mark) -> None:
        """A person ends the episode that is running, and says what it was."""
        if self._phase is _Phase.RUN:
            self._marked = action

    def abandon(self, why: str) -> None:
        """Give up what is left: every episode without an outcome gets ``why``, and nothing is said to the robot."""
        started = self._episode is not None and self._phase is not _Phase.GAP
        left = [*([self._episode] if self._episode is not None and started else []), *self._waiting]
        self.outcomes += [Outcome(episode, "", False, 0.0, 0.0, why, ran=False) for episode in left]
        self._waiting.clear()
        self._episode = None
        self._phase = _Phase.DONE

    def request_stop(self) -> None:
        """Abandon what is left."""
        self.abandon("stopped")

    @property
    def stopped(self) -> bool:
        """The script never needs time to stop."""
        return True

    def close(self) -> None:
        """Nothing is owned."""

    # ------------------------------------------------------------ the script

    def _advance(self, now_ns: int, truth: SimTruth | None, safety: SafetyState | None) -> Iterator[Emit]:
        elapsed_s = to_s(now_ns - (self._phase_ns or 0))
        if self._phase is _Phase.GAP and elapsed_s >= GAP_S:
            yield from self._next_episode(now_ns)
        elif self._phase in (_Phase.LAY, _Phase.ENABLE) and elapsed_s > PREPARE_LIMIT_S and not self._waits(safety):
            yield from self._end(now_ns, truth, False, self._why_not_ready(truth, safety))
        elif self._phase is _Phase.LAY and truth is not None and truth.reset_id == self._resets:
            self._enter(_Phase.ENABLE, now_ns)
        elif self._phase is _Phase.ENABLE and safety is not None and truth is not None:
            yield from self._enable(now_ns, truth, safety)
        elif self._phase is _Phase.RUN and safety is not None and truth is not None:
            yield from self._watch(now_ns, truth, safety, elapsed_s)

    def _next_episode(self, now_ns: int) -> Iterator[Emit]:
        if not self._waiting:
            self._episode = None
            self._enter(_Phase.DONE, now_ns)
            return
        self._episode = episode = self._waiting.pop(0)
        self._resets += 1
        self._operator_ns = None
        self._enter(_Phase.LAY, now_ns)
        reset = SimReset(reset_id=self._resets, task=episode.task, split=episode.split, seed=episode.seed)
        yield Emit("sim/reset", reset)

    def _enable(self, now_ns: int, truth: SimTruth, safety: SafetyState) -> Iterator[Emit]:
        if safety.mode is Mode.ENABLED:
            assert self._episode is not None  # noqa: S101 - an episode is being prepared
            self._enter(_Phase.RUN, now_ns)
            self._success_since_ns = self._held_since_ns = self._marked = None
            yield Emit("episode", EpisodeControl(action="start", name=self._episode.name, issued_ns=now_ns))
            yield self._task(now_ns, truth.instruction)
        elif self._waits(safety):
            return
        elif self._operator_ns is None or to_s(now_ns - self._operator_ns) >= REPEAT_S:
            self._operator_ns = now_ns
            action: dict[Mode, Literal["enable", "resume", "clear_fault"]] = {
                Mode.DISABLED: "enable",
                Mode.FAULT: "clear_fault",
            }
            yield self._operate(now_ns, action.get(safety.mode, "resume"))

    def _waits(self, safety: SafetyState | None) -> bool:
        """Whether a person has to act first, who has the arms or has yet to clear what latched."""
        return self._attended and safety is not None and safety.mode in (*HELD, Mode.OVERRIDE)

    def _watch(self, now_ns: int, truth: SimTruth, safety: SafetyState, elapsed_s: float) -> Iterator[Emit]:
        if truth.reset_id != self._resets:
            return
        held = safety.mode in HELD and not self._attended
        self._held_since_ns = (self._held_since_ns or now_ns) if held else None
        self._success_since_ns = (self._success_since_ns or now_ns) if truth.success else None
        assert self._episode is not None  # noqa: S101 - an episode is running
        if self._marked is not None:
            yield from self._end(now_ns, truth, self._marked == "success", MARKED[self._marked], self._marked)
        elif self._success_since_ns is not None and to_s(now_ns - self._success_since_ns) >= SETTLE_S:
            yield from self._end(now_ns, truth, True, "")
        elif self._held_since_ns is not None and to_s(now_ns - self._held_since_ns) >= HOLD_LIMIT_S:
            yield from self._end(now_ns, truth, False, "; ".join(f"{r.code}: {r.detail}" for r in safety.reasons))
        elif elapsed_s > self._episode.limit_s:
            yield from self._end(now_ns, truth, False, f"not done within {self._episode.limit_s:g} s")

    def _end(
        self, now_ns: int, truth: SimTruth | None, success: bool, why: str, mark: Mark | None = None
    ) -> Iterator[Emit]:
        assert self._episode is not None and self._phase_ns is not None  # noqa: S101, PT018 - one is running
        progress = 0.0 if truth is None else truth.progress
        instruction = "" if truth is None else truth.instruction
        duration_s = to_s(now_ns - self._phase_ns)
        ran = self._phase is _Phase.RUN
        self.outcomes.append(Outcome(self._episode, instruction, success, progress, duration_s, why, ran))
        action: Mark = mark or ("success" if success else "failure")
        yield Emit("episode", EpisodeControl(action=action, name=self._episode.name, issued_ns=now_ns))
        yield self._task(now_ns, "")  # an empty instruction: nothing is wanted any more
        self._enter(_Phase.GAP, now_ns)

    # ------------------------------------------------------------ small steps

    def _enter(self, phase: _Phase, now_ns: int) -> None:
        self._phase = phase
        self._phase_ns = now_ns

    def _task(self, now_ns: int, instruction: str) -> Emit:
        self._tasks += 1
        return Emit("task", Task(task_id=self._tasks, instruction=instruction, issued_ns=now_ns))

    def _operate(self, now_ns: int, action: Literal["enable", "resume", "clear_fault"]) -> Emit:
        self._commands += 1
        return Emit("operator", OperatorCommand(command_id=self._commands, issued_ns=now_ns, action=action))

    @staticmethod
    def _why_not_ready(truth: SimTruth | None, safety: SafetyState | None) -> str:
        if truth is None:
            return "the twin did not answer"
        if safety is None:
            return "the robot stage did not answer"
        reasons = "; ".join(f"{r.code}: {r.detail}" for r in safety.reasons)
        return f"the arms were not enabled ({safety.mode.value}) {reasons}".strip()
