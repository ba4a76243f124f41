"""What image tokens are asked in training: the right label at the right token costs least, wherever it may move."""

import torch
from torch import nn

from syvla_models.planner import SyvlaPlanner
from syvla_models.tiny import build_tiny
from syvla_models.train.batch import ThingBatch
from syvla_models.train.sight import Sight

NAMES = ("red cube on the left", "red cube in the box", "candy in the box")
TOKENS = 6


def planner() -> SyvlaPlanner:
    return build_tiny([f"The {name}." for name in NAMES] * 3)


def labels(token: int = 2, name: int = 0, *, asked: bool = True, pointed: bool = True) -> ThingBatch:
    return ThingBatch(
        token=torch.tensor([token]),
        name=torch.tensor([name]),
        point_m=torch.tensor([[0.3, 0.1]]),
        labelled=torch.ones(TOKENS, dtype=torch.bool),
        asked=torch.tensor([asked]),
        pointed=torch.full((TOKENS,), pointed),
    )


def words(made: SyvlaPlanner, name: str) -> torch.Tensor:
    """(D,) the direction of a name."""
    vectors: torch.Tensor = made.vlm.get_input_embeddings()(torch.tensor(made.encode(f" {name}")))
    return nn.functional.normalize(vectors.mean(0), dim=-1).detach()


def test_a_token_that_says_the_words_of_what_it_shows_is_right() -> None:
    made = planner()
    sight, embeddings = Sight(made, NAMES), made.vlm.get_input_embeddings()
    features = torch.zeros(TOKENS, made.spec.hidden_size)
    features[2] = 8.0 * words(made, NAMES[1])
    halfway = torch.zeros_like(features)

    def shown(token: int, name: int) -> float:
        return float(sight(features, halfway, embeddings, labels(token, name))[0].detach())

    assert shown(2, 1) < shown(2, 2) < shown(3, 1), "the wrong words, sharing some, are better than nowhere"


def test_places_and_words_reach_the_vision_tower_and_the_embeddings() -> None:
    made = planner()
    sight, embeddings = Sight(made, NAMES), made.vlm.get_input_embeddings()
    features = torch.randn(TOKENS, made.spec.hidden_size, requires_grad=True)
    halfway = torch.randn(TOKENS, made.spec.hidden_size, requires_grad=True)
    things = labels()
    seen, asked = sight(features, halfway, embeddings, things)
    further = sight(features, halfway, embeddings, things._replace(point_m=things.point_m + 1.0))[0]
    assert float(further) != float(seen)
    (seen + asked).backward()
    assert features.grad is not None
    assert halfway.grad is not None
    assert features.grad.abs().sum(1).min() > 0.0, "every token learns what it does not show"
    assert halfway.grad.abs().sum(1).min() > 0.0
    learned = embeddings.weight.grad
    assert learned is not None
    assert learned[made.encode(" cube")].abs().max() > 0.0


def test_what_nobody_asked_about_is_no_loss() -> None:
    made = planner()
    sight, embeddings = Sight(made, NAMES), made.vlm.get_input_embeddings()
    tokens = torch.randn(TOKENS, made.spec.hidden_size)
    assert float(sight(tokens, tokens, embeddings, labels(pointed=False))[1]) == 0.0
    with torch.no_grad():
        sight.about.weight.zero_()
        sight.about.weight[0, 0] = 1.0
    tokens = torch.full_like(tokens, 0.0)
    tokens[:, 0] = -9.0
    tokens[2, 0] = 9.0
    right, wrong = (float(sight(tokens, tokens, embeddings, labels(token))[1]) for token in (2, 4))
    assert right < 0.02 < wrong
