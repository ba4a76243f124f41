"""How well a proportion is known."""

import math


def difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """A 95 % interval of how much the proportion ``first`` is above ``second``, each (successes, trials).

    Newcombe 1998, Interval estimation for the difference between independent proportions, method 10.
    """
    if not first[1] or not second[1]:
        return -1.0, 1.0
    p, q = first[0] / first[1], second[0] / second[1]
    (p_low, p_high), (q_low, q_high) = wilson(*first), wilson(*second)
    low, high = math.hypot(p - p_low, q_high - q), math.hypot(p_high - p, q - q_low)
    return p - q - low, p - q + high


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927; Agresti and Coull 1998, eq. 2)."""
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    centre = p + z * z / (2 * trials)
    spread = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
