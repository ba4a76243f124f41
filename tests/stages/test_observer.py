"""Observations that cross to another machine: with the pixels that training saw, and judged where they were stamped."""

import io

import msgspec
import numpy as np
import pytest
from PIL import Image
from policy_bench import MS, Topics, arm, frame, task

from syvla.control.observation import observe
from syvla.errors import RecordingError
from syvla.messages import CameraFrame, CompressedObservation, Observation
from syvla.stages.observer import Delivered, Observer, packed, unpacked
from syvla_models.train.episode import unpack


def seen(observation_ns: int = 5 * MS) -> Observation:
    """Two cameras that see something colourful."""
    rgb = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    rgb[8:24, 8:40] = (200, 30, 60)
    frames = [
        CameraFrame(camera=camera, frame_id=3, exposure_ns=observation_ns, rgb=rgb) for camera in ("cam_high", "cam_b")
    ]
    return observe(arm("left", observation_ns), arm("right", observation_ns), frames)


def test_jpeg_pixels_are_those_that_training_decodes_from_a_recording() -> None:
    observation = seen()
    small = packed(observation, 90)
    back = unpacked(small)
    for sent, got in zip(small.frames, back.frames, strict=True):
        assert np.array_equal(got.rgb, unpack(sent.jpeg.tobytes())), "the training reader's decoder"
    assert not np.array_equal(back.frames[0].rgb, observation.frames[0].rgb), "it is lossy: the test says something"
    for field in ("observation_ns", "source_age_s"):
        assert getattr(back, field) == getattr(observation, field)
    assert np.array_equal(back.proprioception, observation.proprioception)
    assert [f.camera for f in back.frames] == ["cam_high", "cam_b"]


def test_what_is_delivered_is_looked_at_once_whatever_this_machines_clock_says() -> None:
    delivered = Delivered(("cam_high",))
    topics = Topics().put("observation", seen())
    assert delivered.observation(10**18, topics.take()) is not None
    assert delivered.observation(10**18, topics.put("task", task()).take()) is None, "it was looked at already"
    topics.put("observation/jpeg", packed(seen(9 * MS), 90))
    newer = delivered.observation(0, topics.take())
    assert newer is not None
    assert newer.observation_ns == 9 * MS


def test_an_observation_that_lacks_a_camera_is_refused() -> None:
    """The model would have ended the planner's process, for every robot."""
    delivered = Delivered(("cam_high", "cam_right_wrist"))
    assert delivered.observation(0, Topics().put("observation", seen()).take()) is None
    assert delivered.observation(0, Topics().put("observation/jpeg", packed(seen(), 90)).take()) is None


def with_jpeg(content: bytes) -> CompressedObservation:
    small = packed(seen(), 90)
    lie = msgspec.structs.replace(small.frames[0], jpeg=np.frombuffer(content, np.uint8))
    return msgspec.structs.replace(small, frames=(lie, small.frames[1]))


def test_a_bad_image_is_refused_and_the_next_observation_is_taken() -> None:
    other = io.BytesIO()
    Image.new("RGB", (640, 480)).save(other, "JPEG")
    delivered = Delivered(("cam_high",))
    topics = Topics()
    for content in (b"GIF89a", packed(seen(), 90).frames[0].jpeg.tobytes()[:200], other.getvalue()):
        with pytest.raises(RecordingError):
            unpacked(with_jpeg(content))
        assert delivered.observation(0, topics.put("observation/jpeg", with_jpeg(content)).take()) is None
    assert delivered.observation(0, topics.put("observation/jpeg", packed(seen(), 90)).take()) is not None


def test_an_observer_wants_everything_fresh_by_the_clock_that_stamped_it() -> None:
    observer = Observer(("cam_high",))
    now_ns = 1000 * MS
    for arms_ms, frame_ms, there in ((0, 0, True), (50, 199, True), (51, 0, False), (0, 201, False)):
        topics = Topics().arms(now_ns - arms_ms * MS)
        topics.put("camera/cam_high", frame("cam_high", now_ns - frame_ms * MS))
        assert (observer.observation(now_ns, topics.take()) is not None) is there
