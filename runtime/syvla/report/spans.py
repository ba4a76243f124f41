"""Stretches of time in which something holds, from columns: what a person looks for along a timeline."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from syvla.report.origins import Int64


class Stretch(NamedTuple):
    """Rows ``first`` to ``last`` of a column, both of them in it, and when they were."""

    first: int
    last: int
    start_ns: int
    end_ns: int

    @property
    def rows(self) -> slice:
        """Of the columns."""
        return slice(self.first, self.last + 1)


def stretches(at_ns: Int64, holds: npt.NDArray[np.bool_], join_ns: int = 0, least_ns: int = 0) -> list[Stretch]:
    """Where ``holds`` (N,) is true at the ascending ``at_ns`` (N,), in order.

    Two that are at most ``join_ns`` apart count as one; those shorter than ``least_ns`` are left out.
    """
    rows = np.flatnonzero(holds)
    if not len(rows):
        return []
    apart = (np.diff(rows) > 1) & (np.diff(at_ns[rows]) > join_ns)
    firsts, lasts = rows[np.r_[True, apart]].tolist(), rows[np.r_[apart, True]].tolist()
    found = [Stretch(a, b, int(at_ns[a]), int(at_ns[b])) for a, b in zip(firsts, lasts, strict=True)]
    return [each for each in found if each.end_ns - each.start_ns >= least_ns]
