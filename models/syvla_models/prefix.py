"""The rows of a chunk that are already committed: what the arms execute anyway while the next chunk is computed."""

import numpy as np

from syvla.message import Float64
from syvla.messages import ARM_JOINTS, ActionChunk

FAR_RAD = 0.1  # arms further than this from a chunk are not following it: a hold, an override, a collision
JOINTS = np.r_[0:ARM_JOINTS, ARM_JOINTS + 1 : 2 * ARM_JOINTS + 1]  # of a row (14,) of both arms
GRIPPERS = np.array([ARM_JOINTS, 2 * ARM_JOINTS + 1])


def prefix_rows(
    committed: ActionChunk | None, observation_ns: int, period_ns: int, count: int, proprioception: Float64
) -> Float64:
    """Set-points (n, 14) of ``committed`` due at ``observation_ns + k * period_ns`` for k < ``count``, n <= ``count``.

    Between its rows they are interpolated. There are none past its last row, and none at all where the arms, measured
    at ``observation_ns`` as ``proprioception`` (14,), do not follow it. Without a chunk the arms are taken to
    stand where they were measured: a first chunk that began to move at once was too far ahead of them when it came,
    and the gate refused it.
    """
    if count < 1:
        return np.empty((0, len(proprioception)))
    if committed is None:
        return np.repeat(proprioception[None].astype(np.float64), count, axis=0)
    due = (observation_ns - committed.observation_ns + np.arange(count) * period_ns) / committed.period_ns
    due = due[due <= len(committed.position_rad) - 1]
    below = np.clip(np.floor(due).astype(np.int64), 0, None)
    above = np.minimum(below + 1, len(committed.position_rad) - 1)
    part = np.clip(due - below, 0.0, 1.0)[:, None]
    rows = np.empty((len(due), len(proprioception)))
    for columns, values in ((JOINTS, committed.position_rad), (GRIPPERS, committed.gripper_width_m)):
        rows[:, columns] = values[below] + part * (values[above] - values[below])
    if len(rows) and not np.abs(rows[0] - proprioception)[JOINTS].max() <= FAR_RAD:  # NaN is far, too
        return rows[:0]
    return rows
