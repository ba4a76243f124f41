"""``syvla replay policy``: what stages of a recorded episode would have sent otherwise.

Each is brought to an instant as it was. From there on the stages that a change concerns run again on what was recorded
of all others, each step when it was made or, where a latency is changed, in lockstep. The arms' feedback and the
pictures stay those that were recorded, whatever would have been commanded.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from syvla.apps.replay_verify import Tell, configuration, policy_of, recorded_arms, show, stepped
from syvla.clock import NS_PER_S, to_ns, to_s
from syvla.config import Continuity, RunConfig, changed
from syvla.drivers.recorded import RecordedArm
from syvla.errors import ConfigError, RecordingError
from syvla.hosts.lockstep import LockstepHost
from syvla.hosts.memory import capture, restore
from syvla.hosts.repeat import RepeatHost, repeat_together
from syvla.messages import ArmName, StageMemory, Steps
from syvla.policies import find_backend, find_policy, policy_cameras
from syvla.protocols import Emit, Inbox, OnNew, Received, Stage
from syvla.recording.mcap_read import Recorded, Recording
from syvla.recording.stepped import LATE_NS, Stepped, received
from syvla.report.comparison import Comparison, compare, draw, words
from syvla.rig import recorded_models, replayed_stage
from syvla.runs import joined
from syvla.topics import REPLAYED, TOPICS

ORDER = ("twin", "robot", "cameras", "planner", "expert", "teleop", "console")  # at one instant, as in lockstep
MODELS = ("_planner", "_expert")
SLICE_NS = 100_000_000
TELL_NS = 5_000_000_000  # of the recording, between two words of progress


class Change(NamedTuple):
    """What would be otherwise; None and empty: as it was."""

    policy: str | None = None
    backend: str | None = None
    continuity: Continuity | None = None
    planner_latency_s: float | None = None
    expert_latency_s: float | None = None
    settings: tuple[str, ...] = ()  # "safety.first_step_rad=0.1": a key of the rig's safety, intent or control

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that it concerns, and those that follow them."""
        if self.policy is not None or self.planner_latency_s is not None:
            return REPLAYED
        if any(each is not None for each in (self.backend, self.continuity, self.expert_latency_s)):
            return REPLAYED[1:]
        both = ("intent.", "safety.position_", "safety.gripper_")  # an expert looks at them, too
        return REPLAYED[1:] if any(each.startswith(both) for each in self.settings) else REPLAYED[2:]

    def applied(self, run: RunConfig) -> RunConfig:
        """The run as it would be; ConfigError names what cannot be so."""
        for name, value in (("planner", self.planner_latency_s), ("expert", self.expert_latency_s)):
            if value is not None and not 0.0 <= value <= 10.0:
                raise ConfigError(f"{name} latency must be 0 to 10 s, not {value}")
        run = msgspec.structs.replace(run, rig=changed(run.rig, self.settings, ("safety", "intent", "control")))
        if any(each.startswith("control.rate_hz") for each in self.settings):
            raise ConfigError("control.rate_hz cannot be changed: the ticks are those that were recorded")
        backend = self.backend or ("eager" if self.continuity == "guided" else None)  # it needs a gradient
        if self.policy is not None or backend is not None:
            name = run.policy_name if self.policy is None else find_policy(self.policy)
            backend = run.backend if backend is None else backend
            run = msgspec.structs.replace(run, policy_name=name, backend=find_backend(name, backend, thinks=True))
        if self.continuity is not None:
            run = joined(run, self.continuity)
        return run


# ---------------------------------------------------------------- as it was, up to one instant


class _Brought(NamedTuple):
    """A stage that has been brought to an instant, and how it stands there."""

    stage: Stage
    latest: dict[str, Received]
    last: Stepped

    def pending(self, at_ns: int) -> list[Received]:
        """What the last step, under way at ``at_ns``, has yet to send."""
        return [each for each in self.last.sent if each.header.sent_ns >= at_ns]


def _memories(recording: Recording, name: str) -> list[tuple[int, int, int]]:
    """Of each memory the step that follows: its instant, epoch and number."""
    instants: dict[tuple[int, int], int] = {}
    following: list[tuple[int, int]] = []
    for recorded in recording.messages({f"memory/{name}", f"steps/{name}"}):
        message, epoch = recorded.message, recorded.header.epoch
        if isinstance(message, Steps):
            steps = enumerate(message.steps[:, 0].tolist(), message.first_step)
            instants.update({(epoch, number): instant for number, instant in steps})
        elif isinstance(message, StageMemory):
            following.append((epoch, message.next_step))
    found = [(instants[step], *step) for step in following if step in instants]
    if not found:
        raise RecordingError(f"{recording.path}: no step of the {name} is recorded, with what it remembered before it")
    return found


def _bring(recording: Recording, run: RunConfig, then: RunConfig, name: str, at_ns: int) -> tuple[_Brought, Any]:
    """The stage of ``then`` as that of ``run`` was when the step at or after ``at_ns`` was to come, and its arms."""
    _, epoch, number = max(memory for memory in _memories(recording, name) if memory[0] < at_ns)
    models = (run.policy_name, run.backend, run.policy.continuity)
    anew = () if models == (then.policy_name, then.backend, then.policy.continuity) or name == "robot" else MODELS
    arms, arms_then = recorded_arms(run), recorded_arms(then)
    showing: list[Stepped] = []
    stage = recorded_models(name, run, policy_cameras(then), showing) if anew else replayed_stage(name, run, arms)
    steps = dropwhile(lambda step: (step.epoch, step.number) != (epoch, number), stepped(recording, stage))
    before = takewhile(lambda step: step.now_ns < at_ns, steps)

    def lay(step: Stepped) -> None:
        showing[:] = [step]
        show(arms, step)
        show(arms_then, step)

    host = RepeatHost(stage, before, lay, anew)
    last = None
    for repeated in host.run():
        last = repeated.step
    if last is None:
        raise RecordingError(f"{recording.path}: no step of the {name} can be repeated before that instant")
    new = replayed_stage(name, then, arms_then)
    restore(new, capture(stage), anew)
    return _Brought(new, host.latest, last), arms_then


# ---------------------------------------------------------------- otherwise, from there on


def replay(path: Path, change: Change, at_s: float | None, folder: Path, tell: Tell) -> list[str]:
    """``syvla replay policy``: the comparison in words; figures and picture are written into ``folder``."""
    if change == Change():
        raise ConfigError("nothing is changed: say what, or give 'syvla replay verify'")
    folder.mkdir(parents=True, exist_ok=True)
    found = what_if(Recording(path), change, at_s, tell)
    name = path.name.split(".mcap")[0]
    numbers = (f"{name}.replay-{k}" for k in range(1, 10_000))
    free = next(each for each in numbers if not any((folder / (each + end)).exists() for end in (".json", ".png")))
    asked = {key: value for key, value in change._asdict().items() if value not in (None, ())}
    figures = {"change": asked, **found.figures}
    (folder / f"{free}.json").write_text(json.dumps(figures, indent=2) + "\n")
    told = [f"{key} {value}" for key, value in asked.items() if key != "settings"] + list(change.settings)
    title = f"{name}: {', '.join(told)}"
    draw(found, title, folder / f"{free}.png")
    return [*words(found), f"written: {folder / free}.json and .png"]


class _Played:
    """Stands in the place of a stage that is not run again: what it sent is played."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    trigger = OnNew(())
    lossless = False
    stopped = True

    def __init__(self, name: str) -> None:
        self.name = name

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Never called."""
        return ()

    def request_stop(self) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is to be closed."""


class _Heard(_Played):
    """Keeps what the stages that are run again send."""

    lossless = True

    def __init__(self, topics: tuple[str, ...]) -> None:
        super().__init__("recorder")
        self.reads = topics
        self.trigger = OnNew(topics)
        self.messages: list[Recorded] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Keep what came."""
        self.messages += [Recorded(r.header.topic, r.header, r.message, r.received_ns) for r in inbox.fresh]
        return ()


def what_if(recording: Recording, change: Change, at_s: float | None, tell: Tell) -> Comparison:
    """What would have been sent with ``change`` from ``at_s`` into the recording on, beside what was.

    Without ``at_s``, from the first instant at which it is known what every stage remembered.

    Raises:
        ConfigError: the change is not possible, or nothing is recorded at that instant.
        RecordingError: the recording does not hold what is needed.
    """
    run = configuration(recording)
    names = change.stages
    if change.policy is None and "expert" in names:
        run = policy_of(recording, run)
    then = change.applied(run)
    at_ns, end_ns = _span(recording, names, at_s)
    brought: dict[str, _Brought] = {}
    arms: Mapping[ArmName, RecordedArm] = {}
    for name in names:
        tell(f"{name}: as it was, up to {_second(recording, at_ns):.2f} s")
        brought[name], of = _bring(recording, run, then, name, at_ns)
        arms = of if name == "robot" else arms
    own = tuple(dict.fromkeys(topic for each in brought.values() for topic in each.stage.writes))
    tell(f"{', '.join(names)}: otherwise, up to {_second(recording, end_ns):.2f} s")
    if change.planner_latency_s is None and change.expert_latency_s is None:
        sent = _repeated(recording, brought, arms, (at_ns, end_ns), tell)
    else:
        sent = _timed(recording, change, brought, arms, (at_ns, end_ns), tell)
    for each in brought.values():
        each.stage.close()
    return compare(recording, sent, own, (at_ns, end_ns))


def _repeated(
    recording: Recording,
    brought: Mapping[str, _Brought],
    arms: Mapping[ArmName, RecordedArm],
    span_ns: tuple[int, int],
    tell: Tell,
) -> list[Recorded]:
    """What the stages send in the steps that they made, when they made them."""
    at_ns, end_ns = span_ns
    hosts = []
    sent = [_recorded(each) for name in brought for each in brought[name].pending(at_ns)]
    for name in (name for name in ORDER if name in brought):
        each = brought[name]
        after = dropwhile(lambda step: step.now_ns < at_ns, stepped(recording, each.stage))
        steps = takewhile(lambda step: step.now_ns <= end_ns, after)
        hosts.append(RepeatHost(each.stage, steps, functools.partial(show, arms), latest=each.latest))
    told_ns = at_ns
    for repeated in repeat_together(hosts):
        sent += [_recorded(each) for each in repeated.sent]
        if repeated.step.now_ns - told_ns >= TELL_NS:
            told_ns = repeated.step.now_ns
            tell(f"  {_second(recording, told_ns):.1f} of {_second(recording, end_ns):.1f} s")
    return sent


def _recorded(received_: Received) -> Recorded:
    return Recorded(received_.header.topic, received_.header, received_.message, received_.received_ns)


def _timed(
    recording: Recording,
    change: Change,
    brought: Mapping[str, _Brought],
    arms: Mapping[ArmName, RecordedArm],
    span_ns: tuple[int, int],
    tell: Tell,
) -> list[Recorded]:
    """What the stages send in lockstep, where each takes the time that it would."""
    at_ns = span_ns[0]
    heard = _Heard(tuple(dict.fromkeys(topic for each in brought.values() for topic in each.stage.writes)))
    stages = [brought[name].stage if name in brought else _Played(name) for name in ORDER]
    latency_s = {
        name: given if given is not None else _latency_s(recording, brought[name].stage)
        for name, given in (("planner", change.planner_latency_s), ("expert", change.expert_latency_s))
        if name in brought
    }
    host = LockstepHost([*stages, heard], latency_s, at_ns, paced=("robot",))
    reads = {topic for each in brought.values() for topic in each.stage.reads if TOPICS[topic].recorded}
    own = set(heard.reads)
    for name, each in brought.items():
        _begin(recording, host, name, each, at_ns)
    _play(recording, host, reads - own, brought.get("robot"), arms, span_ns, tell)
    return heard.messages


def _second(recording: Recording, at_ns: int) -> float:
    return to_s(at_ns - _began_ns(recording))


def _began_ns(recording: Recording) -> int:
    return next(recording.records({"episode", "task", "arm/left"})).log_time_ns


def _span(recording: Recording, names: Sequence[str], at_s: float | None) -> tuple[int, int]:
    """The instant from which on is run again, one of the robot's ticks, and the last tick that is known."""
    began_ns = _began_ns(recording)
    known_ns = max(min(_memories(recording, name))[0] for name in names) + 1
    until_ns = min(_instants(recording, name)[-1] for name in names)
    at_ns = known_ns if at_s is None else began_ns + to_ns(at_s)
    ticks = [instant for instant in _instants(recording, "robot") if instant <= until_ns]
    later = [instant for instant in ticks if instant >= at_ns]
    if at_ns < known_ns or len(later) < 2:
        end_s = to_s(ticks[-1] - began_ns) if ticks else 0.0
        raise ConfigError(
            f"at must be {to_s(known_ns - began_ns):.2f} to {end_s:.2f} s, where the steps are known, not {at_s}"
        )
    return later[0], later[-1] - 1  # what was sent in that tick is no longer part of it


def _instants(recording: Recording, name: str) -> list[int]:
    """Of all steps that are told of."""
    told = (recorded.message for recorded in recording.messages({f"steps/{name}"}))
    return [instant for steps in told if isinstance(steps, Steps) for instant in steps.steps[:, 0].tolist()]


def _latency_s(recording: Recording, stage: Stage) -> float:
    """From the beginning of a step to its last message, the median of those recorded."""
    taken = [step.sent[-1].header.sent_ns - step.now_ns for step in stepped(recording, stage) if step.sent]
    return float(np.median(taken)) / NS_PER_S if taken else 0.0


def _begin(recording: Recording, host: LockstepHost, name: str, brought: _Brought, at_ns: int) -> None:
    """Seat a stage as it stood: what it has read, what waits for it, and what its last step has yet to send."""
    last, latest = brought.last, brought.latest
    waiting: dict[str, Received] = {}
    for raw in recording.records({topic for topic in brought.stage.reads if TOPICS[topic].recorded}):
        if raw.log_time_ns > at_ns + SLICE_NS:
            break
        if last.now_ns - NS_PER_S <= raw.sent_ns < at_ns:
            one = received(raw)
            known = latest.get(raw.topic)
            if known is None or _newer(one, known):
                waiting[raw.topic] = one
    pending = brought.pending(at_ns)
    busy_until_ns = pending[-1].header.sent_ns if pending else 0
    until_ns = max(at_ns - 1, busy_until_ns)
    for topic in brought.stage.writes:
        newest = None
        for raw in recording.records({topic}):
            newest = raw if raw.sent_ns <= until_ns else newest
        if newest is not None:
            header = received(newest).header
            host.number(topic, header.epoch, header.sequence + 1)
    stepped_ns = [instant for instant in _instants(recording, name) if instant <= last.now_ns][-2:]
    host.go_on(name, latest, waiting.values(), stepped_ns or [last.now_ns], busy_until_ns)
    for each in pending:
        host.play(each.header.sent_ns, name, each)


def _newer(one: Received, than: Received) -> bool:
    return (one.header.epoch, one.header.sequence) > (than.header.epoch, than.header.sequence)


def _play(
    recording: Recording,
    host: LockstepHost,
    topics: set[str],
    robot: _Brought | None,
    arms: Mapping[ArmName, RecordedArm],
    span_ns: tuple[int, int],
    tell: Tell,
) -> None:
    """Run on to the end of the span, on what is recorded of ``topics``, and with the robot's ticks as they were."""
    at_ns, end_ns = span_ns
    ticks = iter(()) if robot is None else stepped(recording, robot.stage)
    tick = next((step for step in ticks if step.now_ns >= at_ns), None)
    records = (raw for raw in recording.records(topics) if at_ns <= raw.sent_ns <= end_ns)
    ahead_ns = SLICE_NS + LATE_NS
    raw = next(records, None)
    now_ns, told_ns = at_ns, at_ns
    while now_ns < end_ns:
        now_ns = min(now_ns + SLICE_NS, end_ns)
        while raw is not None and raw.log_time_ns <= now_ns + ahead_ns:
            host.play(raw.sent_ns, TOPICS[raw.topic].writer, received(raw))
            raw = next(records, None)
        while tick is not None and tick.now_ns <= now_ns:
            show(arms, tick)
            host.tick(tick.now_ns, "robot", [each for each in tick.fresh if each.header.topic in topics])
            tick = next(ticks, None)
        host.run_until(now_ns)
        if now_ns - told_ns >= TELL_NS:
            told_ns = now_ns
            tell(f"  {_second(recording, now_ns):.1f} of {_second(recording, end_ns):.1f} s")
