"""The benchmark of seams: what it takes from the commands, and what it says of them."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from syvla.bench import seams
from syvla.bench.seams import Cell, Found, Jumps, _row, _verdict, _Watch
from syvla.errors import ConfigError, SyvlaError
from syvla.messages import ActionChunk, JointCommand, Mode, Provenance, SafetyState, Source, Splice
from syvla.protocols import Header, Inbox, Received
from syvla.runs import load_rig

TICK_NS = 5_000_000


def received(topic: str, message: Any) -> Received:
    return Received(Header(topic, 0, 0, 0, 0), message, 0, tuple)


def command(at_ns: int, row: int, source: Source, sent_rad: float) -> JointCommand:
    return JointCommand(
        command_id=at_ns,
        commanded_ns=at_ns,
        position_rad=np.full(12, sent_rad),
        gripper_width_m=np.zeros(2),
        provenance=Provenance(source=source, chunk_row=row),
        intent_age_s=0.1,
        limited_joints=0,
    )


def safety(mode: Mode) -> SafetyState:
    return SafetyState(
        stamp_ns=0, mode=mode, source=Source.POLICY, reasons=(), limited_joints=0, clamped_count=0,
        refused_count=0, arm_distance_m=0.1,
    )  # fmt: skip


def chunk(chunk_id: int, at_rad: float) -> ActionChunk:
    return ActionChunk(
        chunk_id=chunk_id,
        task_id=1,
        intent_id=0,
        intent_observation_ns=0,
        observation_ns=0,
        period_ns=1_000_000_000 // 30,
        position_rad=np.full((50, 12), at_rad, np.float32),
        gripper_width_m=np.zeros((50, 2), np.float32),
        inference_delay_steps=0,
    )


def watched(messages: list[Any]) -> _Watch:
    rig = load_rig("twin")
    watch = _Watch(msgspec.structs.replace(rig, control=msgspec.structs.replace(rig.control, blend_s=0.0)))
    watch.step(0, Inbox({}, [received("any", message) for message in messages]))
    return watch


def spliced(chunk_: ActionChunk, at_ns: int, replaced: int, jump_rad: float) -> Splice:
    return Splice(
        splice_id=0, chunk_id=chunk_.chunk_id, intent_id=0, replaced_chunk_id=replaced, observation_ns=0,
        spliced_ns=at_ns, inference_delay_steps=1, jump_rad=jump_rad,
    )  # fmt: skip


def test_what_was_asked_is_seen_beside_what_was_sent() -> None:
    """The gate limits every acceleration: behind it all strategies looked alike, however hard the chunks met."""
    first, second = chunk(1, 0.0), chunk(2, 0.25)
    messages: list[Any] = [safety(Mode.ENABLED), command(0, -1, Source.HOLD, 0.0), first]
    messages += [spliced(first, TICK_NS, -1, 0.0)]
    messages += [command(k * TICK_NS, 3, Source.POLICY, 0.0) for k in range(1, 5)]
    messages += [second, spliced(second, 5 * TICK_NS, 1, 0.25)]
    messages += [command(k * TICK_NS, 49, Source.POLICY, 0.001 * (k - 4)) for k in range(5, 9)]
    messages += [command(9 * TICK_NS, -1, Source.HOLD, 0.004)]
    messages += [safety(Mode.HOLD), safety(Mode.HOLD), safety(Mode.ENABLED), safety(Mode.HOLD)]
    watch = watched(messages)
    assert (watch.policy, watch.past_end, watch.held, watch.holds) == (8, 4, 1, 2), (
        "nothing was due before the first row"
    )
    assert watch.spliced_ns == [5 * TICK_NS], "one that replaced nothing has no seam"
    assert np.isnan(watch.asked_rad[0]).all()
    assert np.array(watch.asked_rad)[1:, 0] == pytest.approx([0.0] * 5 + [0.25] * 3 + [np.nan], nan_ok=True)
    assert np.array(watch.sent_rad)[-1, 0] == pytest.approx(0.004)


def test_a_seam_that_is_not_the_recorded_one_is_no_measurement() -> None:
    first, second = chunk(1, 0.0), chunk(2, 0.25)
    messages = [command(0, 3, Source.POLICY, 0.0), first, spliced(first, 1, -1, 0.0), second]
    with pytest.raises(SyvlaError, match=r"took over by 0\.2 rad"):
        watched([*messages, spliced(second, 2, 1, 0.2)])
    with pytest.raises(SyvlaError, match="chunk 2 took over, and is wholly in the past here"):
        watched([*messages, spliced(second, 3_000_000_000, 1, 0.2)])


def test_an_episode_that_cannot_be_measured_loses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(policy: str, cell: Cell) -> Found:
        raise SyvlaError("chunk 7 took over by 0.2 rad, and here by 0.3 rad")

    monkeypatch.setattr(seams, "_measured", broken)
    cell = Cell("prefix", 8, "snack_loading", 3)
    found = seams.measure("learned", cell)
    assert (found.success, found.error) == (False, "chunk 7 took over by 0.2 rad, and here by 0.3 rad")
    row = _row("prefix", 8, [found, found._replace(success=True, error="")])
    assert (row["done"], row["episodes"], row["failed"]) == (1, 1, 1)

    def without_torch(policy: str, cell: Cell) -> Found:
        raise ConfigError("torch is missing")

    monkeypatch.setattr(seams, "_measured", without_torch)
    with pytest.raises(ConfigError, match="torch is missing"):  # which every other would meet as well
        seams.measure("learned", cell)


def test_the_picture_shows_every_task(tmp_path: Path) -> None:
    rows = [
        {**row, "task": task, "continuity": continuity}
        for task in ("snack_loading", "math_packaging")
        for continuity in seams.COLOURS
        for row in rows_of(40, 0.1, 0, failed=False)[:2]
    ]
    seams._draw(rows, tmp_path / "seams.png")
    with Image.open(tmp_path / "seams.png") as picture:
        both = picture.height
    seams._draw(rows[: len(rows) // 2], tmp_path / "seams.png")
    with Image.open(tmp_path / "seams.png") as picture:
        assert picture.height < both


def rows_of(prefix_done: int, jump: float, replace_done: int, failed: bool) -> list[dict[str, Any]]:
    def found(continuity: Any, delay: int, seed: int, success: bool, velocity: float) -> Found:
        cell = Cell(continuity, delay, "snack_loading", seed)
        asked = Jumps([velocity] * 3, [10.0 * velocity])
        return Found(cell, success, 10.0 + seed, asked, Jumps([0.125], [1.0]), 0.0, 1)

    each = [found("prefix", 0, seed, True, 0.01) for seed in range(40)]
    each += [found("prefix", 8, seed, seed < prefix_done, jump) for seed in range(40)]
    each += [found("replace", 8, seed, seed < replace_done, 0.5) for seed in range(40)]
    each += [found("replace", 0, seed, True, 0.5) for seed in range(40)]
    if failed:
        each.append(each[0]._replace(success=False, error="chunk 7 took over by 0.2 rad, and here by 0.3 rad"))
    kinds: tuple[tuple[str, int], ...] = (("prefix", 0), ("prefix", 8), ("replace", 8), ("replace", 0))
    return [_row(continuity, delay, each) for continuity, delay in kinds]


@pytest.mark.parametrize(
    ("done", "jump", "replace_done", "failed", "reached"),
    [
        (40, 0.1, 0, False, True),
        (39, 0.1, 0, False, True),
        (38, 0.1, 0, False, False),
        (40, 0.11, 0, False, False),
        (40, 0.1, 30, False, True),
        (40, 0.1, 38, False, False),  # what may have fallen by chance shows nothing
        (40, 0.1, 0, True, False),
    ],
)
def test_the_default_is_to_keep_success_with_soft_seams(
    done: int, jump: float, replace_done: int, failed: bool, reached: bool
) -> None:
    rows = rows_of(done, jump, replace_done, failed)
    assert rows[0]["failed"] == failed
    assert rows[0]["episodes"] == 40, "what could not be measured is no episode"
    assert rows[1]["done"] == done
    assert (rows[2]["mean_duration_s"] is None) is (replace_done == 0)
    assert rows[0]["mean_duration_s"] == pytest.approx(29.5)
    assert rows[0]["holds"] == 40
    verdict = _verdict(rows)
    assert verdict["reached"] is reached
    assert verdict["points_lost"] == pytest.approx(100.0 * (40 - done) / 40)
    assert verdict["seam_shares"] == pytest.approx({"velocity_rad_s": jump / 0.5, "acceleration_rad_s2": jump / 0.5})
    assert rows[0]["sent"]["velocity_rad_s"] == {"p50": 0.125, "p95": 0.125, "max": 0.125}
