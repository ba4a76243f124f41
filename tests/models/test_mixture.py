"""The mixture: weights that are kept, and rows that depend on seed, step and slot alone."""

from collections.abc import Iterator

import numpy as np
import pytest

from syvla.errors import ConfigError
from syvla_models.train.mixture import Mixture, generator
from syvla_models.train.samples import Sample


class Named:
    """A source that only says what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def draw(self, rng: np.random.Generator, validation: bool) -> Sample:
        return Sample(
            self.name, (), instruction="validation" if validation else "training", chain_of_thought=str(rng.random())
        )

    def texts(self) -> Iterator[str]:
        return iter(())


def mixture(seed: int = 0) -> Mixture:
    return Mixture([Named("a"), Named("never"), Named("b")], [3.0, 0.0, 1.0], seed)


def said(sample: Sample) -> tuple[str, str, str | None]:
    return sample.source, sample.instruction, sample.chain_of_thought


def test_a_mixture_keeps_its_weights_and_depends_on_seed_step_and_slot_alone() -> None:
    first, second = mixture(), mixture()
    drawn = {(step, slot): said(first.sample(step, slot)) for step in range(50) for slot in range(20)}
    backwards = {key: said(second.sample(*key)) for key in reversed(drawn)}
    assert backwards == drawn
    assert len(set(drawn.values())) == len(drawn), "every row has numbers of its own"
    names = [source for source, _, _ in drawn.values()]
    assert set(names) == {"a", "b"}
    assert names.count("a") == pytest.approx(750, abs=50)
    assert said(mixture(1).sample(0, 0)) != drawn[0, 0]


def test_every_place_has_a_generator_of_its_own() -> None:
    places = [(seed, stream, step, slot) for seed in (0, 1) for stream in (0, 1) for step in (0, 1) for slot in (0, 1)]
    assert len({generator(*place).random() for place in places}) == len(places)


def test_validation_is_asked_of_one_source_and_is_the_same_every_time() -> None:
    asked = said(mixture().validation("never", 3))
    assert asked == said(mixture().validation("never", 3))
    assert asked[:2] == ("never", "validation")
    assert asked[2] not in {said(mixture().sample(step, slot))[2] for step in range(5) for slot in range(5)}
    with pytest.raises(ConfigError, match="a, never, b"):
        mixture().validation("c", 0)
