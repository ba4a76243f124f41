"""Which source each row of each batch is drawn from, decided by (seed, step, slot) alone.

A counter-based generator (Philox, Salmon et al. 2011) is set to a place of its own for every row, so that a run that
goes on at step s draws what it would have drawn, without replaying the steps before.
"""

from collections.abc import Sequence

import numpy as np

from syvla.errors import ConfigError
from syvla_models.train.samples import Sample, Source

_TRAIN, _VALIDATION, _AUGMENT = range(3)  # streams that never meet


class Mixture:
    """Sources with weights, relative to each other; a source of weight 0 is only validated."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], seed: int) -> None:
        if len(sources) != len(weights) or not sources:
            raise ConfigError(f"{len(sources)} sources need as many weights, not {len(weights)}")
        if min(weights) < 0.0 or sum(weights) <= 0.0:
            raise ConfigError(f"weights must not be negative, and one must be above 0, not {list(weights)}")
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ConfigError(f"sources must have different names, not {names}")
        self.sources = {source.name: source for source in sources}
        drawn = [(source, weight) for source, weight in zip(sources, weights, strict=True) if weight > 0.0]
        self._drawn = tuple(source for source, _ in drawn)
        self._bounds = np.cumsum([weight for _, weight in drawn]) / sum(weights)
        self._bounds[-1] = 1.0  # whatever the rounding
        self._seed = seed

    def sample(self, step: int, slot: int) -> Sample:
        """Row ``slot`` of the batch of ``step``."""
        rng = generator(self._seed, _TRAIN, step, slot)
        index = int(np.searchsorted(self._bounds, rng.random(), "right"))
        return self._drawn[index].draw(rng, validation=False)

    def validation(self, name: str, index: int) -> Sample:
        """Validation sample ``index`` of the source ``name``: the same in every run with this seed."""
        if name not in self.sources:
            raise ConfigError(f"no source {name!r}; there are {', '.join(self.sources)}")
        return self.sources[name].draw(generator(self._seed, _VALIDATION, 0, index), validation=True)

    def augmentation(self, step: int, slot: int) -> np.random.Generator:
        """The generator for what is done to the images of a row."""
        return generator(self._seed, _AUGMENT, step, slot)


def generator(seed: int, stream: int, step: int, slot: int) -> np.random.Generator:
    """A generator of its own for every (seed, stream, step, slot), each good for 2^128 draws."""
    key = np.array([seed, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, slot, step], np.uint64)))
