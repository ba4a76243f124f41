"""``syvla replay verify``: run stages of a recorded episode again as they were.

Each is given again, step by step, what it was given, and everything that it sends must be what it sent, to the bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from syvla.clock import to_ns, to_s
from syvla.config import RunConfig
from syvla.drivers.recorded import RecordedArm
from syvla.errors import ConfigError, RecordingError
from syvla.hosts.repeat import RepeatHost
from syvla.messages import ARMS, ArmName, ArmState, Intent, JointCommand, Mode, SafetyState, Source
from syvla.policies import recorded_policy
from syvla.protocols import Stage
from syvla.recording.mcap_read import CONFIG_ATTACHMENT, Recording
from syvla.recording.stepped import Stepped, steps_of
from syvla.rig import replayed_stage
from syvla.topics import REPLAYED

MOVED_RAD = 0.05  # less than this by the policy is no motion
Tell = Callable[[str], None]


class Verified(NamedTuple):
    """One stage, run again as it was."""

    stage: str
    steps: int
    skipped: int  # before it can be said what it remembered
    gaps: int  # between those that were repeated: not recorded whole, up to where it is known again what it remembered
    differing: int
    first: str  # the first difference in words, and when
    since_ns: int
    until_ns: int  # the instants of the first and the last step that was repeated

    @property
    def seconds(self) -> float:
        """How long a time was repeated."""
        return to_s(self.until_ns - self.since_ns)

    @property
    def exact(self) -> bool:
        """Whether it could be run again without a gap, and to the bit."""
        return self.steps > 0 and self.gaps == 0 and self.differing == 0


def _must_move(recording: Recording, begin_ns: int, end_ns: int) -> None:
    """RecordingError unless the policy moved a joint in this time: on standing arms a repetition proves nothing."""
    rows = [
        recorded.message.position_rad
        for recorded in recording.messages({"command"})
        if isinstance(recorded.message, JointCommand)
        and recorded.message.provenance.source is Source.POLICY
        and begin_ns <= recorded.message.commanded_ns <= end_ns
    ]
    if not rows or np.ptp(np.array(rows), axis=0).max() < MOVED_RAD:
        raise RecordingError(
            f"{recording.path}: in the {to_s(end_ns - begin_ns):.1f} s that can be run again the policy gave "
            f"{len(rows)} commands and moved no joint by {MOVED_RAD:g} rad: that would prove nothing"
        )


def verify(recording: Recording, stages: Sequence[str], tell: Tell) -> list[Verified]:
    """Run ``stages`` again as they were; RecordingError if the policy did not move the arms meanwhile."""
    for name in stages:
        if name not in REPLAYED:
            raise ConfigError(f"no stage {name!r} can be run again; there are {', '.join(REPLAYED)}")
    run = configuration(recording)
    return [_verified(recording, run, name, tell) for name in stages]


def exact_stages(recording: Recording) -> tuple[str, ...]:
    """Those that can be run again to the bit: not the reference policy's, and a planner only on what it saw."""
    run = configuration(recording)
    if run.policy_name == "reference":
        return ("robot",)
    return REPLAYED if run.rig.recorder.image_format == "raw" else REPLAYED[1:]


def _verified(recording: Recording, run: RunConfig, name: str, tell: Tell) -> Verified:
    arms = recorded_arms(run)
    stage = replayed_stage(name, run if name == "robot" else policy_of(recording, run), arms)
    host = RepeatHost(stage, stepped(recording, stage), lambda step: show(arms, step))
    steps = differing = 0
    first, begin_ns, end_ns = "", 0, 0
    for repeated in host.run():
        begin_ns, end_ns = begin_ns or repeated.step.now_ns, repeated.step.now_ns
        steps += 1
        differences = repeated.differences
        if differences:
            differing += 1
            first = first or f"step {repeated.step.number} at {repeated.step.now_ns} ns {differences[0]}"
    stage.close()
    if steps:
        _must_move(recording, begin_ns, end_ns)
    verified = Verified(name, steps, host.skipped, host.gaps, differing, first, begin_ns, end_ns)
    tell(f"{name}: {steps} steps in {verified.seconds:.1f} s, {_words(verified)}; {host.skipped} before not repeated")
    return verified


def _words(verified: Verified) -> str:
    if verified.steps == 0:
        return "NONE CAN BE MADE AGAIN"
    gaps = f"{verified.gaps} BETWEEN NOT RECORDED WHOLE, " if verified.gaps else ""
    return gaps + (f"{verified.differing} DIFFER: {verified.first}" if verified.differing else "to the bit")


# ---------------------------------------------------------------- what a recording says of its run


def configuration(recording: Recording) -> RunConfig:
    """How the run was configured; RecordingError if the recording does not say."""
    try:
        return msgspec.json.decode(recording.attachments[CONFIG_ATTACHMENT], type=RunConfig)
    except KeyError:
        raise RecordingError(f"{recording.path}: holds no configuration to run its stages with") from None
    except msgspec.MsgspecError as error:
        raise RecordingError(f"{recording.path}: its configuration is of another version: {error}") from error


def policy_of(recording: Recording, run: RunConfig) -> RunConfig:
    """The run with its policy where that is here; ConfigError if its checkpoint is not."""
    intents = (recorded.message for recorded in recording.messages({"intent"}))
    model_ids = (intent.model_id for intent in intents if isinstance(intent, Intent))
    return msgspec.structs.replace(run, policy_name=recorded_policy(run.policy_name, next(model_ids, "no model")))


def recorded_arms(run: RunConfig) -> dict[ArmName, RecordedArm]:
    """Both arms, with nothing laid before them yet."""
    delays = (run.rig.left.feedback_delay_s, run.rig.right.feedback_delay_s)
    return {arm: RecordedArm(arm, to_ns(delay_s)) for arm, delay_s in zip(ARMS, delays, strict=True)}


def stepped(recording: Recording, stage: Stage) -> Iterator[Stepped]:
    """The recorded steps of ``stage``."""
    return steps_of(recording, stage.name, stage.reads, stage.writes)


def show(arms: Mapping[ArmName, RecordedArm], step: Stepped) -> None:
    """Lay before both arms what they measured and answered in ``step``."""
    for received_ in step.sent:
        message = received_.message
        if isinstance(message, ArmState):
            arms[message.arm].show(message, step.now_ns)
        elif isinstance(message, SafetyState):
            for arm in arms.values():
                arm.answers = message.mode is not Mode.DISABLED
