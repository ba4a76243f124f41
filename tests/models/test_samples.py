"""Demonstrations: a sample holds what was sensed, thought and commanded at its instants, by stamp and nothing else."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from syvla import messages as m
from syvla.config import ArmConfig, RigConfig, RunConfig
from syvla.errors import ConfigError
from syvla.message import Message, UInt8
from syvla.protocols import Header
from syvla.recording.images import compress
from syvla.recording.mcap_log import McapLog
from syvla.sim.waypoints import Waypoint, encode
from syvla.transport.codec import encode_body
from syvla_models.spec import CameraView
from syvla_models.train import samples
from syvla_models.train.mixture import generator
from syvla_models.train.samples import Demonstrations, find, split

MS = 1_000_000
DURATION_MS = 4000
VIEW = CameraView(camera="cam_high", height=32, width=64, crop=(0.0, 0.0, 0.5, 1.0))
WRIST = CameraView(camera="cam_left_wrist", height=32, width=32)
Change = Callable[[list[tuple[str, Message]]], Iterable[tuple[str, Message]]]


def joints(at_ns: int) -> list[float]:
    """A set-point that says when it is due."""
    return [(j + 1) * at_ns / 1e9 / 20 for j in range(12)]


def command(at_ns: int) -> m.JointCommand:
    return m.JointCommand(
        command_id=at_ns // (5 * MS), commanded_ns=at_ns, position_rad=np.array(joints(at_ns)),
        gripper_width_m=np.array([at_ns / 1e11, 0.07 - at_ns / 1e11]),
        provenance=m.Provenance(source=m.Source.POLICY), intent_age_s=0.1, limited_joints=0,
    )  # fmt: skip


def arm(name: m.ArmName, at_ns: int) -> m.ArmState:
    """Measured 40 ms behind what was commanded."""
    q = np.array(joints(at_ns - 40 * MS)).reshape(2, 6)[m.ARMS.index(name)]
    return m.ArmState(
        arm=name, measured_ns=at_ns, position_rad=q, velocity_rad_s=np.zeros(6), effort_nm=np.zeros(6),
        gripper_width_m=0.01 if name == "left" else 0.02, enabled=True,
    )  # fmt: skip


def frame(camera: str, at_ns: int) -> m.CompressedFrame:
    """An image whose grey says when it was taken: one level for 20 ms; its lower half is white."""
    rgb = np.full((64, 64, 3), at_ns // (20 * MS), np.uint8)
    rgb[32:] = 255
    return compress(m.CameraFrame(camera=camera, frame_id=at_ns // MS, exposure_ns=at_ns, rgb=rgb), 95)


def intent(at_ns: int, task_id: int = 1) -> m.Intent:
    return m.Intent(
        intent_id=at_ns // MS, task_id=task_id, observation_ns=at_ns, chain_of_thought=f"thought at {at_ns // MS}",
        feature_query_states=np.zeros((20, 8), np.float16), model_id="test",
    )  # fmt: skip


def task(at_ns: int, instruction: str, task_id: int = 1) -> m.Task:
    return m.Task(task_id=task_id, instruction=instruction, issued_ns=at_ns)


def messages() -> list[tuple[str, Message]]:
    """Four seconds: commands and arms at 200 Hz, cameras at 15 Hz (the wrist's 20 ms late), intents every 0.3 s."""
    every: list[tuple[str, Message]] = [("task", task(100 * MS, "do it"))]
    for ms in range(100, DURATION_MS + 1, 5):
        every += [
            ("command", command(ms * MS)),
            ("arm/left", arm("left", ms * MS)),
            ("arm/right", arm("right", ms * MS)),
        ]
    for k in range(1, 60):
        at_ns = round(k * 1e9 / 15)
        every.append(("camera/cam_high", frame("cam_high", at_ns)))
        every.append(("camera/cam_left_wrist", frame("cam_left_wrist", at_ns + 20 * MS)))
    every += [("intent", intent(ms * MS)) for ms in range(60, DURATION_MS, 300)]
    return every


def record(path: Path, change: Change = list, outcome: str = "success", arm: ArmConfig | None = None) -> Path:
    """A recording of ``messages``, in the order of the list, which is not that of the stamps."""
    rig = RigConfig(name="t", kind="twin", left=arm or ArmConfig(), right=arm or ArmConfig())
    log = McapLog(path, {"rig": "t"}, {"run.json": msgspec.json.encode(RunConfig(rig=rig)).decode()})
    for number, (topic, message) in enumerate(change(messages())):
        log.write(Header(topic, 0, number, number, 0), type(message), encode_body(message), number)
    return log.close({"outcome": outcome})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good recordings."""
    folder = tmp_path_factory.mktemp("demonstrations")
    for name in "abc":
        record(folder / f"{name}.mcap")
    return folder


def load(folder: Path, **options: object) -> Demonstrations:
    return Demonstrations("demos", find([str(folder)], "*.mcap"), [VIEW], **options)  # type: ignore[arg-type]


def grey_ns(image: UInt8) -> float:
    """When an image of ``frame`` was taken, to 10 ms; it must be the upper half."""
    assert image.std() < 1.0
    return float(image.mean()) * 20 * MS


# ---------------------------------------------------------------- what a sample holds


def test_image_thought_proprioception_and_rows_are_of_the_same_instants(folder: Path) -> None:
    demos = load(folder, action_samples=8)
    ages, prefixes = [], []
    for k in range(60):
        sample = demos.draw(generator(0, 0, 0, k), False)
        assert sample.instruction == "do it"
        assert sample.images[0].shape == (32, 64, 3)
        seen_ns = grey_ns(sample.images[0])
        assert sample.chain_of_thought is not None
        thought_ms = int(sample.chain_of_thought.split()[-1])
        assert -20 <= seen_ns / MS - thought_ms <= 320, (
            "the newest intent made at or before the image, one every 300 ms"
        )
        assert sample.actions is not None
        due_s = sample.actions.rows[:, 0, 0] * 20  # the first joint's set-point says when it is due
        assert np.abs(due_s - sample.actions.age_s - seen_ns / 1e9).max() < 0.02
        np.testing.assert_allclose(sample.actions.proprioception[:, 0] * 20, due_s - 0.04, atol=1e-5)
        np.testing.assert_allclose(sample.actions.proprioception[:, [6, 13]], [[0.01, 0.02]] * 8, atol=1e-6)
        ages += sample.actions.age_s.tolist()
        prefixes += sample.actions.prefix.tolist()
    assert 0.3 <= min(ages) < 0.34
    assert 0.96 < max(ages) <= 1.0
    assert np.mean(ages) == pytest.approx(0.65, abs=0.05)
    assert set(prefixes) == set(range(16))


def test_the_order_of_a_row_is_left_arm_gripper_right_arm_gripper(folder: Path) -> None:
    actions = load(folder).draw_actions(generator(0, 0, 0, 0))
    due_s = actions.rows[0, 0, 0] * 20
    expected = [*(due_s / 20 * (j + 1) for j in range(6)), due_s / 100]
    expected += [*(due_s / 20 * (j + 1) for j in range(6, 12)), 0.07 - due_s / 100]
    np.testing.assert_allclose(actions.rows[0, 0], expected, atol=1e-5)


def test_rows_are_a_period_apart_and_the_last_set_point_stands(folder: Path) -> None:
    demos = load(folder, period_s=0.04, horizon=30)
    ended = 0
    for k in range(40):
        rows = demos.draw_actions(generator(1, 0, 0, k)).rows
        due_s = rows[..., 0] * 20
        expected = np.minimum(due_s[:, :1] + 0.04 * np.arange(30), DURATION_MS / 1000)
        np.testing.assert_allclose(due_s, expected, atol=1e-4)
        ended += int((due_s[:, -1] > DURATION_MS / 1000 - 1e-4).sum())
    assert ended > 10


def test_an_arm_beside_the_demonstration_is_led_back_to_it(folder: Path) -> None:
    """Whatever strays a little must have been seen straying: the rows begin where the arm was put, and then return."""
    plain, beside = load(folder), load(folder, perturbation_rad=0.05)
    moved = []
    for k in range(40):
        wanted, found = (demos.draw_actions(generator(2, 0, 0, k)) for demos in (plain, beside))
        shift = found.proprioception - wanted.proprioception
        np.testing.assert_allclose(found.rows[:, 0] - wanted.rows[:, 0], shift, atol=1e-9)
        for rows, plan, prefix in zip(found.rows, wanted.rows, found.prefix, strict=True):
            np.testing.assert_allclose(rows[prefix + 10 :], plan[prefix + 10 :], atol=1e-9)
        assert not shift[:, [6, 13]].any(), "a gripper's width says what it holds"
        moved.append(shift[:, [*range(6), *range(7, 13)]])
    assert np.std(moved) == pytest.approx(0.05, rel=0.1)


def closing_at_2_s(plain: list[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
    """The left hand closes in half a second, 1 mm for each command."""
    for topic, message in plain:
        if isinstance(message, m.JointCommand):
            since = min(max(message.commanded_ns / MS - 2000, 0) / 500, 1.0)
            widths_m = np.array([0.1 - 0.1 * since, message.gripper_width_m[1]])
            yield topic, msgspec.structs.replace(message, gripper_width_m=widths_m)
        else:
            yield topic, message


def test_as_many_rows_as_told_are_of_the_moments_before_a_hand_closes(tmp_path: Path, folder: Path) -> None:
    """Of all moments three in ten are, and experts that drew them no more often came down centimetres beside things."""
    for name in "ab":
        record(tmp_path / f"{name}.mcap", closing_at_2_s)

    def share(demos: Demonstrations, validation: bool = False) -> float:
        seen_s = [grey_ns(demos.draw(generator(4, 0, 0, k), validation).images[0]) / 1e9 for k in range(300)]
        return float(np.mean([0.39 < at_s < 2.21 for at_s in seen_s]))  # 1.6 s before it begins, 0.3 s before it ends

    plain = share(load(tmp_path))
    assert 0.4 < plain < 0.6
    assert share(load(tmp_path, grasp_share=1.0)) == 1.0
    assert share(load(tmp_path, grasp_share=0.5)) == pytest.approx((1.0 + plain) / 2.0, abs=0.07)
    assert share(load(tmp_path, grasp_share=1.0), validation=True) == pytest.approx(plain, abs=0.1)
    never = load(folder, grasp_share=1.0)  # the right hand closes by a centimetre a second: it gives way
    assert share(never) == pytest.approx(share(load(folder)), abs=0.01)


def test_a_prefix_does_not_tell_where_the_demonstration_went(folder: Path) -> None:
    """It did, better than the intent: an expert went on from its own prefix, and repeated 2.7 cm of a drift of 2.6."""
    plain, beside = load(folder), load(folder, perturbation_rad=0.05)
    ends = []
    for k in range(300):
        wanted, found = (demos.draw_actions(generator(3, 0, 0, k)) for demos in (plain, beside))
        assert (wanted.prefix == found.prefix).all()
        for apart, prefix in zip(found.rows - wanted.rows, found.prefix, strict=True):
            if prefix >= 10:
                ends.append((apart[prefix] - apart[0])[[0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]])
    assert np.std(ends) == pytest.approx(0.05 * np.sqrt(12.5 / 15), rel=0.1)


def test_what_went_wrong_on_purpose_is_seen_and_thought_of_but_not_done(tmp_path: Path) -> None:
    """Demonstrations once taught hands to close beside things: their mistakes were learned with what followed."""
    here, quaternion = (0.3, 0.3, 0.1), (0.0, 1.0, 0.0, 0.0)
    rows = [
        Waypoint("left", 1, here, quaternion, 0.07, mistaken=True),
        Waypoint("left", 2, here, quaternion, 0.07),
        Waypoint("left", 3, (0.3, 0.3, 0.02), quaternion, 0.07, straight=True),
    ]

    def wrong(every: list[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
        for topic, message in every:
            if isinstance(message, m.Intent) and 3000 * MS < message.observation_ns < 3500 * MS:
                states = encode(rows, 1)
                message = msgspec.structs.replace(message, model_id="reference", feature_query_states=states)
            yield topic, message

    for name in "ab":
        record(tmp_path / f"{name}.mcap", wrong)
    demos = load(tmp_path, horizon=10, max_prefix=5, delay_range_s=(0.2, 0.4))
    mistakes_ns = demos.train[0].mistakes
    assert (mistakes_ns[0, 0], mistakes_ns[-1, 1]) == (3060 * MS, 3660 * MS)
    drawn = [demos.draw(np.random.default_rng(seed), False) for seed in range(200)]
    spans = [(grey_ns(s.images[0]) / 1e9, s.actions is not None, s.chain_of_thought) for s in drawn]
    done_s = [at_s for at_s, done, _ in spans if done]
    left_out_s = [at_s for at_s, done, _ in spans if not done]
    last_s = 0.4 + 9 / 30
    assert all(at_s + last_s < 3.1 or at_s + 0.2 > 3.6 for at_s in done_s)
    assert left_out_s
    assert all(at_s + last_s > 3.0 and at_s + 0.2 < 3.7 for at_s in left_out_s)
    assert all(thought for _, _, thought in spans)
    acting = load(tmp_path, horizon=10, max_prefix=5, delay_range_s=(0.2, 0.4), imitable_only=True)
    drawn = [acting.draw(np.random.default_rng(seed), False) for seed in range(200)]
    assert all(sample.actions is not None for sample in drawn)
    again = load(tmp_path, horizon=10, max_prefix=5, delay_range_s=(0.2, 0.4), imitable_only=True, intent_uses=3)
    drawn_again = [again.draw(np.random.default_rng(0), held_out) for held_out in (False, True)]
    assert [len(sample.actions.age_s) for sample in drawn_again if sample.actions is not None] == [12, 4]
    assert {grey_ns(sample.images[0]) / 1e9 for sample in drawn} >= set(done_s)


def test_what_a_learner_did_in_turn_with_the_demonstrator_is_neither_thought_nor_done(tmp_path: Path) -> None:
    """Whose intent a command carried out is in its provenance; the learner's are over 0.3 s after its last thought."""
    states = encode([Waypoint("left", 1, (0.3, 0.3, 0.1), (0.0, 1.0, 0.0, 0.0), 0.07)], 1)

    def in_turn(every: list[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
        for topic, message in every:
            if isinstance(message, m.Intent) and not 1200 * MS < message.observation_ns < 1800 * MS:
                message = msgspec.structs.replace(message, model_id="reference", feature_query_states=states)
            elif isinstance(message, m.JointCommand):  # each intent is carried out from 0.3 s after its observation on
                at_ms = message.commanded_ns // MS - 300
                thought_ms = 60 + (at_ms - 60) // 300 * 300
                provenance = msgspec.structs.replace(message.provenance, intent_id=thought_ms)
                message = msgspec.structs.replace(message, provenance=provenance)
            yield topic, message

    for name in "ab":
        record(tmp_path / f"{name}.mcap", in_turn)
    demos = load(tmp_path, horizon=10, max_prefix=5, delay_range_s=(0.2, 0.4))
    (led,) = demos.train[0].mistakes.tolist()
    assert led == pytest.approx([1560 * MS, 2155 * MS + 200 * MS], abs=5 * MS)
    drawn = [demos.draw(np.random.default_rng(seed), False) for seed in range(200)]
    at_s = np.array([grey_ns(sample.images[0]) / 1e9 for sample in drawn])
    assert not ((at_s > 1.3) & (at_s < 1.8)).any()
    assert (at_s < 1.26).any()
    assert ((at_s > 1.85) & (at_s < 2.1)).any()
    done = np.array([sample.actions is not None for sample in drawn])
    assert not done[(at_s + 0.4 + 9 / 30 > 1.6) & (at_s + 0.2 < 2.3)].any()
    assert done[at_s + 0.2 > 2.4].all()
    assert all(sample.chain_of_thought for sample in drawn)


def test_where_a_person_took_over_only_what_the_person_did_is_learned(tmp_path: Path) -> None:
    """The policy's own way there was wrong, and so may be what it thought meanwhile: neither was ever corrected."""

    def corrected(every: list[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
        for topic, message in every:
            if isinstance(message, m.JointCommand) and 1500 * MS <= message.commanded_ns < 3000 * MS:
                provenance = m.Provenance(source=m.Source.TELEOP, override_id=0)
                message = msgspec.structs.replace(message, provenance=provenance, intent_age_s=-1.0)
            yield topic, message

    for name in "ab":
        record(tmp_path / f"{name}.mcap", corrected)
    demos = load(tmp_path, horizon=10, max_prefix=5, delay_range_s=(0.2, 0.4))
    before, after = demos.train[0].mistakes.tolist()
    assert before == pytest.approx([100 * MS, 1695 * MS], abs=5 * MS)
    assert after[0] == pytest.approx(3000 * MS, abs=5 * MS)
    drawn = [demos.draw(np.random.default_rng(seed), False) for seed in range(200)]
    at_s = np.array([grey_ns(sample.images[0]) / 1e9 for sample in drawn])
    done = np.array([sample.actions is not None for sample in drawn])
    assert done.any()
    assert not done[(at_s + 0.4 < 1.6) | (at_s + 0.4 + 9 / 30 > 3.1)].any()
    assert done[(at_s + 0.2 > 1.75) & (at_s + 0.4 + 9 / 30 < 2.95)].all()
    assert all(sample.chain_of_thought is None for sample in drawn)


def test_a_command_counts_from_when_it_was_due_on_its_rig(tmp_path: Path) -> None:
    """A command is sent earlier than its row is due, by the rig's delays; the rows must have the due time."""
    for name in "ab":
        record(tmp_path / f"{name}.mcap", arm=ArmConfig(actuation_delay_s=0.08, gripper_delay_s=0.05))
    actions = load(tmp_path).draw_actions(generator(0, 0, 0, 0))
    sent_s = actions.rows[:, 0, 0] * 20
    np.testing.assert_allclose(sent_s - actions.proprioception[:, 0] * 20, 0.04 - 0.08, atol=1e-4)
    np.testing.assert_allclose(actions.rows[:, 0, 6] * 100, sent_s + 0.03, atol=1e-4)


def test_a_synchronous_loop_acts_at_the_image(folder: Path) -> None:
    actions = load(folder, delay_range_s=(0.0, 0.0), max_prefix=0).draw_actions(generator(0, 0, 0, 0))
    assert not actions.age_s.any()
    assert not actions.prefix.any()
    assert np.ptp(actions.rows, axis=0).max() == 0.0


def test_images_of_several_cameras_belong_together(folder: Path) -> None:
    demos = Demonstrations("demos", find([str(folder)], "*.mcap"), [WRIST, VIEW])
    for episode in demos.train:
        stamps = np.array([sight.observation_ns for sight in episode.sights])
        assert np.diff(stamps).min() > 130 * MS, "7.5 Hz of the camera's 15"
        for sight in episode.sights:
            seen = episode.images(sight)
            high, wrist = (grey_ns(seen[camera][:32]) for camera in ("cam_high", "cam_left_wrist"))
            assert wrist - high == pytest.approx(20 * MS, abs=21 * MS)
            assert high == pytest.approx(sight.observation_ns, abs=21 * MS), (
                "the older one is the observation's instant"
            )
    assert [image.shape for image in demos.draw(generator(0, 0, 0, 0), False).images] == [(32, 32, 3), (32, 64, 3)]


def test_the_instruction_and_the_thoughts_are_those_of_the_task_in_force(tmp_path: Path) -> None:
    def second_task(every: list[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
        yield from every
        yield "task", task(2000 * MS, "then this", 2)
        yield "intent", intent(3990 * MS, 2)
        yield "task", task(3000 * MS, "", 3)

    for name in "ab":
        record(tmp_path / f"{name}.mcap", second_task)
    for episode in load(tmp_path).train:
        for sight in episode.sights:
            assert sight.instruction == "do it"
            assert sight.observation_ns < 2000 * MS, "no thought of the second task was made in time"
    for episode in load(tmp_path, thought_probability=0.0).train:
        said = [(s.instruction, s.observation_ns // (1000 * MS)) for s in episode.sights]
        assert set(said) == {("do it", 0), ("do it", 1), ("then this", 2)}


@pytest.mark.parametrize(("probability", "said"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_thoughts_are_left_out_as_often_as_asked(folder: Path, probability: float, said: float) -> None:
    demos = load(folder, thought_probability=probability, action_samples=0)
    drawn = [demos.draw(generator(0, 0, 0, k), False) for k in range(200)]
    thoughts = [sample.chain_of_thought for sample in drawn]
    assert np.mean([bool(text) for text in thoughts]) == pytest.approx(said, abs=0.1)
    missing = {text for text in thoughts if not text}
    assert missing == ({""} if probability == 0.0 else {None} if probability < 1.0 else set())
    assert all(sample.actions is None for sample in drawn)


def test_texts_have_every_instruction_and_thought(folder: Path) -> None:
    texts = set(load(folder).texts())
    assert "do it" in texts
    assert "thought at 960" in texts


def test_how_far_the_hands_are_open_is_that_of_the_image(folder: Path) -> None:
    demos = load(folder, action_samples=0)
    for k in range(20):
        sample = demos.draw(generator(0, 0, 0, k), False)
        assert sample.widths_m is not None
        left_m, right_m = sample.widths_m
        sights = [(e, s) for e in demos.train for s in e.sights]
        measured = [e.proprioception(np.array(s.observation_ns))[[6, 13]] for e, s in sights]
        assert any(np.allclose((left_m, right_m), m) for m in measured)


# ---------------------------------------------------------------- other wordings


def test_instructions_are_reworded_as_often_as_asked_and_nothing_else_changes(folder: Path) -> None:
    wordings = {"do it": ("get it done", "see to it")}
    demos = load(folder, reworded=0.7, wordings=wordings, action_samples=0)
    told = [demos.draw(generator(0, 0, 0, k), False).instruction for k in range(300)]
    assert set(told) == {"do it", *wordings["do it"]}
    assert told.count("do it") / 300 == pytest.approx(0.3, abs=0.1)
    assert told.count("see to it") / 300 == pytest.approx(0.35, abs=0.1)
    assert {"do it", *wordings["do it"]} <= set(demos.texts())


def test_an_instruction_that_is_to_be_reworded_needs_wordings(folder: Path) -> None:
    """It was kept as it is: a training on one wording that said it was on many."""
    with pytest.raises(ConfigError, match="demos: reworded: there are no wordings of 'do it'"):
        load(folder, reworded=0.7, wordings={"do that": ("what?",)}, action_samples=0)
    load(folder, wordings={"do that": ("what?",)}, action_samples=0)


# ---------------------------------------------------------------- what is refused


def _backwards(every: list[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
    yield from every
    yield "command", command(3000 * MS)


def _nan(every: list[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
    for topic, message in every:
        broken = topic == "arm/right" and isinstance(message, m.ArmState) and message.measured_ns == 2000 * MS
        yield topic, msgspec.structs.replace(message, gripper_width_m=float("nan")) if broken else message


def _without(topic: str) -> Change:
    return lambda every: [pair for pair in every if pair[0] != topic]


def _gap(every: list[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
    for topic, message in every:
        if not (isinstance(message, m.JointCommand) and 1000 * MS < message.commanded_ns < 1400 * MS):
            yield topic, message


@pytest.mark.parametrize(
    ("change", "outcome", "why"),
    [
        (list, "failure", "its outcome is 'failure'"),
        (list, "interrupted", "its outcome is 'interrupted'"),
        (_backwards, "success", "command goes back by 1.000 s"),
        (_nan, "success", "arm/right has a value that is not finite"),
        (_gap, "success", "command has a gap of 0.40 s"),
        (_without("camera/cam_high"), "success", "it has no camera/cam_high"),
        (_without("arm/left"), "success", "it has no arm/left"),
        (_without("intent"), "success", "it has no intent"),
        (_without("task"), "success", "it has no task"),
    ],
)
def test_a_recording_that_cannot_be_trusted_is_left_out_and_named(
    folder: Path, tmp_path: Path, change: Change, outcome: str, why: str
) -> None:
    bad = record(tmp_path / "bad.mcap", change, outcome)
    said: list[str] = []
    demos = Demonstrations("demos", [bad, *folder.glob("*.mcap")], [VIEW], say=said.append)
    assert len(demos.left_out) == 1
    assert demos.left_out[0].startswith(f"{bad}: ")
    assert why in demos.left_out[0]
    assert len(demos.train) + len(demos.validation) == 3
    assert said == [f"demos: 1 of 4 recordings left out:\n  {demos.left_out[0]}"]


def test_reading_that_takes_long_says_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_SAY_EVERY_S", 0.0)
    said: list[str] = []
    Demonstrations("demos", list(folder.glob("*.mcap")), [VIEW], say=said.append)
    assert said == [f"demos: {count} of 3 recordings read" for count in (1, 2, 3)]


def test_a_recording_that_was_cut_off_is_left_out(folder: Path, tmp_path: Path) -> None:
    whole = next(folder.glob("*.mcap")).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[: len(whole) * 3 // 4])
    demos = Demonstrations("demos", [tmp_path / "cut.mcap", *folder.glob("*.mcap")], [VIEW])
    assert len(demos.left_out) == 1
    assert "incomplete" in demos.left_out[0]


def test_without_thoughts_to_learn_intents_are_not_needed(tmp_path: Path) -> None:
    for name in "ab":
        record(tmp_path / f"{name}.mcap", _without("intent"))
    sample = load(tmp_path, thought_probability=0.0).draw(generator(0, 0, 0, 0), False)
    assert sample.chain_of_thought == ""


def test_too_few_recordings_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "only.mcap")
    with pytest.raises(ConfigError, match="at least 2"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="no file"):
        find([str(tmp_path / "*.nothing")], "*.mcap")


# ---------------------------------------------------------------- splits


def test_a_split_is_stable_and_disjoint() -> None:
    keys = [f"episode-{k}" for k in range(200)]
    held_out = split(keys, 0.1, "x")
    assert len(held_out) == 20
    assert split(reversed(keys), 0.1, "x") == held_out
    grown = split([*keys, *(f"more-{k}" for k in range(20))], 0.1, "x")
    assert len(grown & held_out) >= 15
    assert len(split(keys[:2], 0.0, "x")) == 1


def test_validation_never_meets_training(tmp_path: Path) -> None:
    def named(name: str) -> Change:
        return lambda every: [("task", task(100 * MS, name)), *(pair for pair in every if pair[0] != "task")]

    for name in "abcdef":
        record(tmp_path / f"{name}.mcap", named(name))
    demos = load(tmp_path, validation_share=0.34, action_samples=0)
    drawn = [{demos.draw(generator(0, 0, 0, k), held_out).instruction for k in range(80)} for held_out in (False, True)]
    assert drawn == [{e.name for e in demos.train}, {e.name for e in demos.validation}]
    assert [len(names) for names in drawn] == [3, 3]
    assert not drawn[0] & drawn[1]
    assert {text for text in demos.texts() if len(text) == 1} == drawn[0]
