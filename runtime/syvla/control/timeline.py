"""The timeline: action chunks by due time, as one trajectory that is continuous in position and velocity.

Row k of a chunk is due at ``observation_ns + k * period_ns``. Between rows runs a cubic Hermite spline with
Catmull-Rom tangents (Catmull and Rom 1974, uniform, tension 1/2) for the joints and a straight line for the
grippers; the last row's tangent is zero, so that a chunk which is not followed by another ends at rest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from syvla.clock import to_ns
from syvla.config import ArmConfig, ControlConfig
from syvla.message import Float64
from syvla.messages import ARM_JOINTS, BOTH_ARMS_JOINTS, ActionChunk, Provenance, Source, Splice

MAX_LAYERS = 8  # chunks that may be fading at one time


class Sample(NamedTuple):
    """What is due now."""

    set_point: list[float]  # (14,) both arms' joints [rad], both grippers [m]
    chunk: ActionChunk
    row: int
    splice_id: int
    overrun_ns: int  # how long the last row is past; negative while there are rows to come

    def provenance(self) -> Provenance:
        """The ids of everything that made this sample."""
        chunk = self.chunk
        return Provenance(
            source=Source.POLICY,
            observation_ns=chunk.observation_ns,
            intent_id=chunk.intent_id,
            intent_observation_ns=chunk.intent_observation_ns,
            chunk_id=chunk.chunk_id,
            chunk_row=self.row,
            splice_id=self.splice_id,
        )


def spline(position_rad: Float64, gripper_width_m: Float64) -> Float64:
    """Power coefficients (H - 1, 4, 14) of the segments between rows (H, 12) and (H, 2), in u = 0..1."""
    rows = np.concatenate((position_rad, gripper_width_m), axis=1, dtype=np.float64)
    if len(rows) == 1:
        rows = np.concatenate((rows, rows))
    delta = np.diff(rows, axis=0)
    tangent = np.empty_like(rows)
    tangent[0], tangent[-1] = delta[0], 0.0
    tangent[1:-1] = 0.5 * (delta[:-1] + delta[1:])
    before, after = tangent[:-1], tangent[1:]
    segments = np.stack((rows[:-1], before, 3 * delta - 2 * before - after, before + after - 2 * delta), axis=1)
    segments[:, 1, BOTH_ARMS_JOINTS:] = delta[:, BOTH_ARMS_JOINTS:]
    segments[:, 2:, BOTH_ARMS_JOINTS:] = 0.0
    return np.ascontiguousarray(segments)


class Layer:
    """One chunk, or where the arms stood, fading in over what lies below it."""

    __slots__ = ("chunk", "end_ns", "fade_ns", "segments", "splice_id")
    remembered = ("chunk", "splice_id", "fade_ns")

    def __init__(self, chunk: ActionChunk, splice_id: int, fade_ns: int) -> None:
        self.chunk = chunk
        self.splice_id = splice_id
        self.fade_ns = fade_ns  # when it began to fade in
        self.recalled()

    def recalled(self) -> None:
        """What follows from its chunk."""
        chunk = self.chunk
        self.segments = spline(chunk.position_rad, chunk.gripper_width_m)  # type: ignore[arg-type]
        self.end_ns = chunk.observation_ns + (len(chunk.position_rad) - 1) * chunk.period_ns


class Timeline:
    """Chunks in, set-points out. Times handed in are those of sending; what each actuator is late is added here.

    A set-point shows ``actuation_delay_s`` or, the gripper's, ``gripper_delay_s`` after it was sent: a row is sent to
    each actuator so much earlier than it is due. Whole chunks are judged by the slowest of them.

    Args:
        config: how chunks fade into each other.
        arms: left and right; their delays are used.
    """

    remembered = ("_layers", "_standing", "_splices")

    def __init__(self, config: ControlConfig, arms: Sequence[ArmConfig]) -> None:
        leads_ns = [to_ns(arm.actuation_delay_s) for arm in arms for _ in range(ARM_JOINTS)]
        leads_ns += [to_ns(arm.gripper_delay_s) for arm in arms]
        self._lead_ns = max(leads_ns)
        self._quicker = [  # the other leads, and the columns that have them
            (lead_ns, np.flatnonzero(np.array(leads_ns) == lead_ns))
            for lead_ns in sorted(set(leads_ns) - {self._lead_ns})
        ]
        self._blend_ns = max(to_ns(config.blend_s), 1)
        self._layers: list[Layer] = []  # oldest first; each fades in over those before it
        self._standing: Float64 | None = None  # below all layers, until the first has faded in
        self._powers = np.ones(4)
        self._splices = 0

    def clear(self) -> None:
        """Forget every chunk: what comes next starts from where the arms then stand."""
        self._layers.clear()
        self._standing = None

    def first_row(self, chunk: ActionChunk, now_ns: int) -> int:
        """The first row of ``chunk`` that is still to come; its horizon if there is none."""
        late_ns = now_ns + self._lead_ns - chunk.observation_ns
        return min(max(-(-late_ns // chunk.period_ns), 0), len(chunk.position_rad))

    def refusal(self, chunk: ActionChunk, now_ns: int) -> str | None:
        """Why ``chunk`` cannot take over: it is a duplicate, older than what runs, or wholly past; or None."""
        self._retire(now_ns)
        if self.first_row(chunk, now_ns) == len(chunk.position_rad):
            return "wholly in the past"
        if self._layers:
            current = self._layers[-1].chunk
            if chunk.chunk_id == current.chunk_id:
                return "a duplicate"
            if chunk.observation_ns < current.observation_ns:
                return "older than the one being executed"
            if len(self._layers) == MAX_LAYERS:
                return "too soon after the ones before it"
        return None

    def splice(self, chunk: ActionChunk, now_ns: int, standing: list[float]) -> Splice:
        """Let ``chunk``, finite and not refused, take over from ``now_ns`` on; rows already past are dropped.

        With nothing running it fades in from ``standing`` (14,).
        """
        if self._layers:
            replaced = self._layers[-1].chunk.chunk_id
            old = self._blend(now_ns)
        else:
            replaced = -1
            old = self._standing = np.array(standing)
        self._splices += 1
        layer = Layer(chunk, self._splices - 1, now_ns)
        self._layers.append(layer)
        new = self._evaluate(layer, now_ns)
        return Splice(
            splice_id=layer.splice_id,
            chunk_id=chunk.chunk_id,
            intent_id=chunk.intent_id,
            replaced_chunk_id=replaced,
            observation_ns=chunk.observation_ns,
            spliced_ns=now_ns,
            inference_delay_steps=max(now_ns + self._lead_ns - chunk.observation_ns, 0) // chunk.period_ns,
            jump_rad=float(np.abs(new - old)[:BOTH_ARMS_JOINTS].max()),
        )

    def sample(self, now_ns: int) -> Sample | None:
        """What is to be sent at ``now_ns``: past the last row, the last row; None with no chunk."""
        if not self._layers:
            return None
        self._retire(now_ns)
        layer = self._layers[-1]
        chunk = layer.chunk
        due_ns = now_ns + self._lead_ns
        row = (due_ns - chunk.observation_ns) // chunk.period_ns
        last = len(chunk.position_rad) - 1
        row = 0 if row < 0 else last if row > last else row
        return Sample(self._blend(now_ns).tolist(), chunk, row, layer.splice_id, due_ns - layer.end_ns)

    def _retire(self, now_ns: int) -> None:
        """Forget what has faded out: everything below the newest layer that has faded in."""
        for i in range(len(self._layers) - 1, -1, -1):
            if now_ns - self._layers[i].fade_ns >= self._blend_ns:
                del self._layers[:i]
                self._standing = None
                return

    def _blend(self, now_ns: int) -> Float64:
        """The layers over each other at ``now_ns``, each with the smoothstep weight of its fade."""
        value = self._evaluate(self._layers[0], now_ns) if self._standing is None else self._standing
        for layer in self._layers[self._standing is None :]:
            s = (now_ns - layer.fade_ns) / self._blend_ns
            value = value + (self._evaluate(layer, now_ns) - value) * (s * s * (3.0 - 2.0 * s))
        return value

    def _evaluate(self, layer: Layer, now_ns: int) -> Float64:
        """What ``layer`` has every actuator sent at ``now_ns`` (14,)."""
        value = self._at(layer, now_ns + self._lead_ns)
        for lead_ns, columns in self._quicker:
            value[columns] = self._at(layer, now_ns + lead_ns)[columns]
        return value

    def _at(self, layer: Layer, due_ns: int) -> Float64:
        """The spline of ``layer`` at ``due_ns`` (14,); before and after its rows it stands."""
        chunk = layer.chunk
        segments = layer.segments
        k, rest_ns = divmod(due_ns - chunk.observation_ns, chunk.period_ns)
        u = rest_ns / chunk.period_ns
        if k < 0:
            k, u = 0, 0.0
        elif k >= len(segments):
            k, u = len(segments) - 1, 1.0
        powers = self._powers
        powers[1] = u
        powers[2] = u * u
        powers[3] = u * u * u
        value: Float64 = powers @ segments[k]
        return value
