"""What feature queries and words look at, where it is known: the loss that says so."""

import numpy as np
import pytest
import torch

from syvla_models.tiny import build_tiny, tiny_spec
from syvla_models.train.batch import Batch, Collator
from syvla_models.train.config import LossConfig
from syvla_models.train.grounding import of_point
from syvla_models.train.learner import Learner
from syvla_models.train.samples import Sample, Seen

NAMES = ("can on the left", "cube on the left")
TEXT = "The can is on the left. The cube is on the left."


def learner_and_batch(gaze: float) -> tuple[Learner, Batch]:
    """A question about a picture with two things; the second is sought."""
    torch.manual_seed(0)
    planner = build_tiny([TEXT, "Where is the cube?"] * 3, tiny_spec())
    learner = Learner(planner, None, torch.ones(32), LossConfig(gaze=gaze), names=NAMES)
    view = planner.spec.views[0]
    image = np.random.default_rng(0).integers(0, 255, (view.height, view.width, 3), np.uint8)
    vision = planner.vlm.config.vision_config
    collator = Collator(
        planner,
        None,
        feature_queries=planner.spec.feature_queries,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        names=NAMES,
    )
    grounding = of_point(0.3, 0.1)
    sample = Sample(
        source="vqa",
        images=(image,),
        question="Where is the cube?",
        answer=TEXT,
        grounding=grounding.values,
        grounding_known=grounding.known,
        seen=(
            Seen(NAMES[0], 0, 0.2, 0.3, 0.2, 0.2, said_at=(TEXT.index(" on"),)),
            Seen(NAMES[1], 0, 0.8, 0.7, 0.3, 0.1, sought=True, said_at=(TEXT.rindex(" on"),)),
        ),
    )
    return learner, collator.collate([sample])


def test_attention_at_the_right_image_token_costs_nothing() -> None:
    learner, batch = learner_and_batch(1.0)
    gaze = batch.gaze
    assert gaze is not None
    length = batch.ids.shape[1]
    images = (batch.ids[0] == learner.planner.vlm.config.image_token_id).nonzero()[:, 0]
    looks = torch.zeros(2, 1, length, length)
    looks[0, 0, gaze.position[gaze.image], images[gaze.target[gaze.image]]] = 1.0
    looks[1, 0, gaze.position[~gaze.image], gaze.target[~gaze.image]] = 1.0
    assert float(learner._gaze(looks, batch.ids, gaze)) == pytest.approx(0.0, abs=1e-5)
    assert float(learner._gaze(looks, batch.ids, gaze._replace(target=gaze.target + 1))) > 10.0
    assert float(learner._gaze(looks.flip(0), batch.ids, gaze)) > 10.0, "words look before queries do"


def test_looking_is_learned_within_a_few_steps() -> None:
    learner, batch = learner_and_batch(1.0)
    optimiser = torch.optim.Adam(learner.parameters(), 3e-3)
    begun = float(learner(batch, None).gaze)
    assert begun > 3.0, "at first attention is spread over some 200 tokens"
    for _ in range(60):
        optimiser.zero_grad()
        learner(batch, None).total.backward()
        optimiser.step()
    assert float(learner(batch, None).gaze) < 0.5 * begun


def test_without_the_loss_attention_is_not_asked_for() -> None:
    learner, batch = learner_and_batch(0.0)
    assert float(learner(batch, None).gaze) == 0.0
    assert learner.planner(batch.ids, batch.attention_mask, batch.pixel_values, batch.image_grid_thw).gaze is None


def test_every_feature_query_says_the_place_by_itself() -> None:
    """Right on average is not enough: the expert's adapter reads each query with the same weights."""
    learner, batch = learner_and_batch(0.0)
    with torch.no_grad():
        learner.grounding.weight.zero_()
        learner.grounding.weight[1, 0] = learner.grounding.weight[2, 1] = 1.0
        learner.grounding.bias.zero_()
    queries, width = learner.planner.queries.shape
    states = torch.zeros(1, queries, width)
    states[..., 0], states[..., 1] = 3.0, 1.0  # x and y in units of 10 cm
    assert float(learner._grounding(states, batch)) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(learner.place(states)[0, 1:3], torch.tensor([0.3, 0.1]))
    states[0, ::2, 0], states[0, 1::2, 0] = 2.0, 4.0
    torch.testing.assert_close(learner.place(states)[0, 1:3], torch.tensor([0.3, 0.1]))
    assert float(learner._grounding(states, batch)) == pytest.approx(1.0, abs=0.06), "each is off by 10 cm"
