"""The benchmark of seams: what it takes from the commands, and what it says of them."""

from typing import Any

import numpy as np
import pytest

from syvla.bench.seams import Cell, Found, _row, _verdict, _Watch
from syvla.messages import JointCommand, Mode, Provenance, SafetyState, Source, Splice
from syvla.protocols import Header, Inbox, Received

TICK_NS = 5_000_000


def received(topic: str, message: Any) -> Received:
    return Received(Header(topic, 0, 0, 0, 0), message, 0, tuple)


def test_what_is_watched() -> None:
    def command(row: int, source: Source) -> JointCommand:
        return JointCommand(
            command_id=row,
            commanded_ns=row * TICK_NS,
            position_rad=np.full(12, 0.1 * row),
            gripper_width_m=np.zeros(2),
            provenance=Provenance(source=source, chunk_row=row),
            intent_age_s=0.1,
            limited_joints=0,
        )

    def splice(replaced: int) -> Splice:
        return Splice(
            splice_id=0, chunk_id=1, intent_id=0, replaced_chunk_id=replaced, observation_ns=0, spliced_ns=7,
            inference_delay_steps=1, jump_rad=0.0,
        )  # fmt: skip

    def safety(mode: Mode) -> SafetyState:
        return SafetyState(
            stamp_ns=0, mode=mode, source=Source.POLICY, reasons=(), limited_joints=0, clamped_count=0,
            refused_count=0, arm_distance_m=0.1,
        )  # fmt: skip

    watch = _Watch()
    messages = [command(3, Source.POLICY), command(49, Source.POLICY), command(49, Source.HOLD), splice(-1), splice(4)]
    messages += [safety(mode) for mode in (Mode.ENABLED, Mode.HOLD, Mode.HOLD, Mode.ENABLED, Mode.HOLD)]
    watch.step(0, Inbox({}, [received("any", message) for message in messages]))
    assert (watch.policy, watch.past_end, watch.holds) == (2, 1, 2)
    assert watch.spliced_ns == [7], "one that replaced nothing has no seam"
    assert np.array(watch.position_rad).shape == (3, 12)


def rows_of(prefix_done: int, jump: float) -> list[dict[str, Any]]:
    def found(continuity: Any, delay: int, seed: int, success: bool, velocity: float) -> Found:
        cell = Cell(continuity, delay, "snack_loading", seed)
        return Found(cell, success, 10.0 + seed, [velocity] * 3, [1.0], 0.0, 1)

    each = [found("prefix", 0, seed, True, 0.01) for seed in range(40)]
    each += [found("prefix", 8, seed, seed < prefix_done, jump) for seed in range(40)]
    each += [found("replace", 8, seed, False, 0.5) for seed in range(40)]
    return [_row(continuity, delay, each) for continuity, delay in (("prefix", 0), ("prefix", 8), ("replace", 8))]


@pytest.mark.parametrize(
    ("done", "jump", "reached"), [(40, 0.1, True), (39, 0.1, True), (38, 0.1, False), (40, 0.11, False)]
)
def test_the_default_is_to_keep_success_with_soft_seams(done: int, jump: float, reached: bool) -> None:
    rows = rows_of(done, jump)
    assert rows[1]["done"] == done
    assert rows[2]["mean_duration_s"] is None
    assert rows[0]["mean_duration_s"] == pytest.approx(29.5)
    assert rows[0]["holds"] == 40
    verdict = _verdict(rows)
    assert verdict["reached"] is reached
    assert verdict["points_lost"] == pytest.approx(100.0 * (40 - done) / 40)
    assert verdict["seam_share"] == pytest.approx(jump / 0.5)
