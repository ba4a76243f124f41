"""Where the twin's tasks lay things: to each side of an arm's reach, inside or outside of the trained region."""

import math

import numpy as np

from syvla.sim.tasks.goal import Side

ARM_Y_M = 0.30  # the arms' bases stand at (0, +-0.30)

_REACH_M = (0.18, 0.43)  # from the base, hand straight down, with a margin
_TRAINED_X_M, _TRAINED_Y_M = (0.16, 0.34), (0.22, 0.42)
_WHOLE_X_M, _WHOLE_Y_M = (0.10, 0.42), (0.22, 0.52)
_RESTARTS, _TRIES = 1000, 200


def spread(
    rng: np.random.Generator, side: Side, count: int, unseen: bool | None, spacing_m: float = 0.085
) -> list[tuple[float, float]]:
    """Positions (x, y) of ``count`` things on one arm's side [m].

    Centres are at least ``spacing_m`` apart, so that an open gripper fits around each thing. With ``unseen``
    each lies outside the rectangle from which the others are drawn; with None anywhere within reach.
    """
    xs, ys = (_TRAINED_X_M, _TRAINED_Y_M) if unseen is False else (_WHOLE_X_M, _WHOLE_Y_M)
    sign = 1.0 if side == "left" else -1.0
    for _ in range(_RESTARTS):
        found: list[tuple[float, float]] = []
        for x, y in zip(rng.uniform(*xs, _TRIES).tolist(), rng.uniform(*ys, _TRIES).tolist(), strict=True):
            trained = _TRAINED_X_M[0] <= x <= _TRAINED_X_M[1] and _TRAINED_Y_M[0] <= y <= _TRAINED_Y_M[1]
            if not _REACH_M[0] <= math.hypot(x, y - ARM_Y_M) <= _REACH_M[1] or (unseen and trained):
                continue
            if all(math.dist((x, sign * y), other) >= spacing_m for other in found):
                found.append((x, sign * y))
            if len(found) == count:
                return found
    raise AssertionError("the table has no room for its things")
