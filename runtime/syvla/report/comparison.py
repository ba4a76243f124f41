"""What would have been different: the messages that were recorded beside those of the same stages run otherwise."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syvla.clock import NS_PER_S, to_s
from syvla.message import Float64
from syvla.messages import BOTH_ARMS_JOINTS, ActionChunk, CameraFrame, CompressedFrame, Intent, Source
from syvla.recording.mcap_read import Recorded, Recording
from syvla.report.episode import Commands, Episode, assembled
from syvla.report.seams import seams
from syvla.report.summary import quantiles, summarise_episode
from syvla.topics import TOPICS
from syvla.transport.codec import encode_body

DIVERGED_RAD = 0.001  # of a joint's set-point, or of the same of metres of a gripper's
NEAR_NS = 60_000_000  # chunks whose observations are further apart are not compared
IMAGES = (CameraFrame, CompressedFrame)


class Comparison(NamedTuple):
    """Both sides of one span of an episode. ``figures`` is fit for JSON."""

    recorded: Episode
    otherwise: Episode
    chunk_error: Float64  # (H, 14) mean absolute difference by row and by joint [rad] and gripper [m]
    figures: dict[str, Any]


def compare(
    recording: Recording, heard: Sequence[Recorded], topics: Collection[str], span_ns: tuple[int, int]
) -> Comparison:
    """``heard`` is what was sent on ``topics`` in ``span_ns`` now, beside what was recorded."""
    others = {row.name for row in TOPICS.values() if row.type not in IMAGES}
    kept = [r for r in recording.messages(others) if span_ns[0] <= r.header.sent_ns <= span_ns[1]]
    before = [r for r in kept if r.topic in topics]
    now = [r for r in heard if r.header.sent_ns <= span_ns[1]]
    common = [r for r in kept if r.topic not in topics]
    recorded = assembled(recording, kept)
    otherwise = assembled(recording, sorted([*common, *now], key=lambda r: r.header.sent_ns))
    error, compared = _chunk_error(_chunks(before), _chunks(now))
    starts_s = to_s(span_ns[0] - next(recording.records()).log_time_ns)
    figures = {
        "recording": recording.path.name,
        "from_s": starts_s,
        "for_s": to_s(span_ns[1] - span_ns[0]),
        "messages": {topic: _messages(topic, before, now, span_ns[0], starts_s) for topic in sorted(topics)},
        "first_other_command_s": _first_command(recorded.commands, otherwise.commands, 0.0, span_ns[0], starts_s),
        "diverged_s": _first_command(recorded.commands, otherwise.commands, DIVERGED_RAD, span_ns[0], starts_s),
        "command_difference": _command_difference(recorded.commands, otherwise.commands),
        "chunks_compared": compared,
        "chunk_error_by_joint": _rounded(np.nanmean(error, axis=0)) if compared else None,
        "chunk_error_by_row": _rounded(error[:, :BOTH_ARMS_JOINTS].mean(axis=1)) if compared else None,
        "commands_compared": len(_paired(recorded.commands, otherwise.commands)[0]),
        "thought": _thought(before, now, span_ns[0], starts_s),
        "recorded": _side(recorded),
        "otherwise": _side(otherwise),
    }
    return Comparison(recorded, otherwise, error, figures)


def _rounded(values: Float64) -> list[float | None]:
    return [round(float(value), 7) if np.isfinite(value) else None for value in values]


def _messages(
    topic: str, before: Sequence[Recorded], now: Sequence[Recorded], start_ns: int, starts_s: float
) -> dict[str, Any]:
    """How many, whether they are the same to the bit, and when the first is not."""
    sides = [[(r.header.sent_ns, _bytes(r)) for r in side if r.topic == topic] for side in (before, now)]
    same = [each[1] for each in sides[0]] == [each[1] for each in sides[1]]
    first = next((min(a[0], b[0]) for a, b in zip(*sides, strict=False) if a[1] != b[1]), None)
    if first is None and not same:
        shorter = min(map(len, sides))
        first = max(sides, key=len)[shorter][0]
    return {
        "recorded": len(sides[0]),
        "otherwise": len(sides[1]),
        "same": same,
        "first_other_s": None if first is None else starts_s + to_s(first - start_ns),
    }


def _bytes(recorded: Recorded) -> bytes:
    return b"".join(map(bytes, encode_body(recorded.message)))


def _paired(recorded: Commands, otherwise: Commands) -> tuple[Any, Float64]:
    """Instants of both sides' common commands, and the difference of the set-points (N, 14)."""
    at_ns, a, b = np.intersect1d(recorded.at_ns, otherwise.at_ns, return_indices=True)
    return at_ns, np.concatenate(
        (
            otherwise.position_rad[b] - recorded.position_rad[a],
            otherwise.gripper_m[b] - recorded.gripper_m[a],
        ),
        axis=1,
    )


def _first_command(
    recorded: Commands, otherwise: Commands, beyond: float, start_ns: int, starts_s: float
) -> float | None:
    at_ns, difference = _paired(recorded, otherwise)
    rows = np.flatnonzero((np.abs(difference) > beyond).any(axis=1))
    return starts_s + to_s(int(at_ns[rows[0]]) - start_ns) if len(rows) else None


def _command_difference(recorded: Commands, otherwise: Commands) -> dict[str, Any]:
    _, difference = _paired(recorded, otherwise)
    joints, grippers = np.abs(difference[:, :BOTH_ARMS_JOINTS]), np.abs(difference[:, BOTH_ARMS_JOINTS:])
    return {
        "worst_joint_rad": quantiles(joints.max(axis=1, initial=0.0)),
        "worst_gripper_m": quantiles(grippers.max(axis=1, initial=0.0)),
    }


def _chunks(side: Sequence[Recorded]) -> list[ActionChunk]:
    return [r.message for r in side if isinstance(r.message, ActionChunk)]


def _chunk_error(before: list[ActionChunk], now: list[ActionChunk]) -> tuple[Float64, int]:
    """Mean absolute difference (H, 14) by row of what would be from what was due at the same instant.

    NaN in a row to which nothing was due.
    """
    if not before or not now:
        return np.zeros((0, BOTH_ARMS_JOINTS + 2)), 0
    rows = max(len(chunk.position_rad) for chunk in now)
    total, count, compared = np.zeros((rows, BOTH_ARMS_JOINTS + 2)), np.zeros((rows, 1)), 0
    seen_ns = np.array([chunk.observation_ns for chunk in before])
    for chunk in now:
        near = before[int(np.abs(seen_ns - chunk.observation_ns).argmin())]
        if abs(near.observation_ns - chunk.observation_ns) > NEAR_NS:
            continue
        compared += 1
        due = (chunk.observation_ns - near.observation_ns + np.arange(len(chunk.position_rad)) * chunk.period_ns) / (
            near.period_ns
        )
        there = (due >= 0) & (due <= len(near.position_rad) - 1)
        was, would = (np.concatenate((c.position_rad, c.gripper_width_m), axis=1) for c in (near, chunk))
        grid = np.arange(len(was))
        columns = np.stack([np.interp(due, grid, was[:, j]) for j in range(was.shape[1])], axis=1)
        total[: len(would)][there] += np.abs(would - columns)[there]
        count[: len(would)][there] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), compared


def _thought(
    before: Sequence[Recorded], now: Sequence[Recorded], start_ns: int, starts_s: float
) -> dict[str, Any] | None:
    """The first chain of thought that would have been another, by the nearest observation."""
    intents = [[r for r in side if isinstance(r.message, Intent)] for side in (before, now)]
    seen_ns = np.array([r.message.observation_ns for r in intents[0]])  # type: ignore[attr-defined]  # Intent
    for other in intents[1] if len(seen_ns) else ():
        message: Any = other.message
        was: Any = intents[0][int(np.abs(seen_ns - message.observation_ns).argmin())].message
        if was.chain_of_thought != message.chain_of_thought:
            return {
                "at_s": starts_s + to_s(message.observation_ns - start_ns),
                "recorded": was.chain_of_thought,
                "otherwise": message.chain_of_thought,
            }
    return None


def _side(episode: Episode) -> dict[str, Any]:
    """What a person asks of one side."""
    commands, summary = episode.commands, summarise_episode(episode)
    by_policy = commands.source == Source.POLICY.value
    last_row = {chunk.chunk_id: chunk.rows - 1 for chunk in episode.chunks}
    ends = [last_row.get(chunk_id, -1) for chunk_id in commands.chunk_id.tolist()]
    past_end = by_policy & (commands.chunk_row == np.array(ends, np.int64))
    holding = commands.source == Source.HOLD.value
    spliced_ns = [s.spliced_ns for s in episode.splices if s.replaced_chunk_id >= 0]
    velocity, acceleration = seams(commands.at_ns.tolist(), commands.position_rad, spliced_ns)
    return {
        "intent": summary["intent"],
        "chunk": summary["chunk"],
        "seam_velocity_jump_rad_s": quantiles(velocity),
        "seam_acceleration_jump_rad_s2": quantiles(acceleration),
        "commands_by_policy": int(by_policy.sum()),
        "commands_past_the_chunk": int(past_end.sum()),
        "commands_holding": int(holding.sum()),
        "gate": summary["gate"],
        "holds": summary["holds"],
    }


def words(comparison: Comparison) -> list[str]:
    """The comparison in lines."""
    figures = comparison.figures
    lines = []
    for topic, found in figures["messages"].items():
        what = "the same to the bit" if found["same"] else f"other from {found['first_other_s']:.2f} s on"
        lines.append(f"{topic}: {found['recorded']} recorded, {found['otherwise']} now, {what}")
    first, diverged = figures["first_other_command_s"], figures["diverged_s"]
    if first is None:
        lines.append(f"set-points: the same to the bit in all {figures['commands_compared']} common ticks")
    else:
        beyond = "never beyond" if diverged is None else f"from {diverged:.2f} s on beyond"
        worst = figures["command_difference"]["worst_joint_rad"]
        lines.append(
            f"set-points: the first other one at {first:.2f} s, {beyond} {DIVERGED_RAD * 1e3:g} mrad; worst joint "
            f"p50 {worst['p50']:.4f}, max {worst['max']:.4f} rad"
        )
    if figures["chunks_compared"]:
        joints = figures["chunk_error_by_joint"]
        rows = [error for error in figures["chunk_error_by_row"] if error is not None]
        worst = int(np.argmax(joints[:BOTH_ARMS_JOINTS]))
        lines.append(
            f"chunks: {figures['chunks_compared']} compared; mean error of a joint {rows[0]:.4f} rad in the first row, "
            f"{rows[-1]:.4f} in the last compared; most in {'left' if worst < 6 else 'right'} joint {worst % 6 + 1}, "
            f"{joints[worst]:.4f} rad"
        )
    thought = figures["thought"]
    if thought is not None:
        lines.append(f"thought at {thought['at_s']:.2f} s: {thought['recorded']!r}")
        lines.append(f"  would have been: {thought['otherwise']!r}")
    lines.append(f"{'':44s}{'recorded':>12s}{'otherwise':>12s}")
    for name, path in _TABLE:
        values = [_at(figures[side], path) for side in ("recorded", "otherwise")]
        lines.append(f"  {name:42s}" + "".join(f"{'-' if v is None else format(v, '.6g'):>12s}" for v in values))
    for side in ("recorded", "otherwise"):
        for hold in figures[side]["holds"]["each"]:
            causes = "; ".join(f"{cause['code']}: {cause['detail']}" for cause in hold["causes"])
            at_s = figures["from_s"] + hold["start_s"]
            lines.append(f"  {side}: {hold['mode']} at {at_s:.2f} s for {hold['duration_s']:.2f} s: {causes}")
    return lines


_TABLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("intents", ("intent", "count")),
    ("intent's age at a command, p50 [s]", ("intent", "age_at_command_s", "p50")),
    ("intent's age at a command, max [s]", ("intent", "age_at_command_s", "max")),
    ("chunks spliced", ("chunk", "spliced")),
    ("observation to splice, p50 [s]", ("chunk", "observation_to_splice_s", "p50")),
    ("jump at a splice before blending, p99 [rad]", ("chunk", "jump_rad", "p99")),
    ("velocity jump at a seam, p99 [rad/s]", ("seam_velocity_jump_rad_s", "p99")),
    ("acceleration jump at a seam, p99 [rad/s^2]", ("seam_acceleration_jump_rad_s2", "p99")),
    ("commands by the policy", ("commands_by_policy",)),
    ("commands past the end of their chunk", ("commands_past_the_chunk",)),
    ("commands that hold", ("commands_holding",)),
    ("commands limited by the gate", ("gate", "commands_limited")),
    ("refused by the gate", ("gate", "refused")),
    ("holds", ("holds", "count")),
)


def _at(figures: dict[str, Any], path: Sequence[str]) -> float | None:
    value: Any = figures
    for name in path:
        value = value[name]
    return None if value is None else float(value)


def draw(comparison: Comparison, title: str, path: Path) -> None:
    """Both sides as a picture: how far apart the commands are, how old the intents, and the error of the chunks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    recorded, otherwise, error = comparison.recorded, comparison.otherwise, comparison.chunk_error
    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    apart, ages, joint, heat = figure.subplots(4, 1, height_ratios=(1, 1, 1.3, 1.3))
    starts_s, start_ns = comparison.figures["from_s"], recorded.start_ns
    at_ns, difference = _paired(recorded.commands, otherwise.commands)
    seconds = starts_s + (at_ns - start_ns) / NS_PER_S
    worst = np.abs(difference[:, :BOTH_ARMS_JOINTS])
    apart.plot(seconds, worst.max(axis=1, initial=0.0), color="#d1495b", linewidth=1)
    apart.set_ylabel("worst joint's\ncommand apart [rad]")
    column = int(worst.max(axis=0).argmax()) if len(worst) else 0
    for side, colour, name in ((recorded, "#2a6f97", "recorded"), (otherwise, "#d9a03f", "otherwise")):
        commands = side.commands
        when = starts_s + (commands.at_ns - start_ns) / NS_PER_S
        age = np.where(commands.intent_age_s < 0, np.nan, commands.intent_age_s)
        ages.plot(when, age, color=colour, linewidth=1, label=name)
        joint.plot(when, commands.position_rad[:, column], color=colour, linewidth=1)
    ages.set_ylabel("intent's age [s]")
    ages.legend(frameon=False, ncols=2, loc="upper left")
    joint.set(ylabel=f"{'left' if column < 6 else 'right'} joint {column % 6 + 1} [rad]", xlabel="time [s]")
    for axes in (apart, ages, joint):
        axes.spines[["top", "right"]].set_visible(False)
        axes.sharex(joint)
    if not error.size:
        heat.remove()
        figure.savefig(path, dpi=130)
        return
    image = heat.imshow(error.T, aspect="auto", cmap="magma", interpolation="nearest")
    heat.set(xlabel="row of the chunk", ylabel="joint, gripper")
    names = [*(f"{arm} {j}" for arm in "LR" for j in range(1, 7)), "L grip", "R grip"]
    heat.set_yticks(range(len(names)), names, fontsize=6)
    figure.colorbar(image, ax=heat, label="mean error of a chunk [rad, m]")
    figure.savefig(path, dpi=130)
