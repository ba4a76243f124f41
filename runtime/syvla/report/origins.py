"""What a command was made from, found again by its number: the newest of that number that had come by then.

Numbers begin at 0 in each process, so that in a recording with a restart in it several things have the same one.
"""

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


def newest_rows(things: Iterable[tuple[int, int]], numbers: Int64, at_ns: Int64) -> Int64:
    """Which of ``things`` (number, when it came) was meant by each of ``numbers`` (N,) at ``at_ns`` (N,): rows (N,).

    -1 where none of that number had come.
    """
    came: dict[int, tuple[list[int], list[int]]] = {}
    for row, (number, came_ns) in sorted(enumerate(things), key=lambda each: each[1][1]):
        instants, rows = came.setdefault(number, ([], []))
        instants.append(came_ns)
        rows.append(row)
    found = np.full(len(numbers), -1, np.int64)
    for i, (number, now_ns) in enumerate(zip(numbers.tolist(), at_ns.tolist(), strict=True)):
        if number in came:
            instants, rows = came[number]
            if before := bisect_right(instants, now_ns):
                found[i] = rows[before - 1]
    return found
