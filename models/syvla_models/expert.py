"""The action expert: a transformer over a noisy action chunk that looks at an intent and predicts the flow's velocity.

Three kinds of input change at three rates, and each is computed only when it changes:

    intent          query states (20, D) -> adapter -> keys and values of every layer     condition()   once per intent
    chunk           measured state (32), its way to where the intent acts, and the
                    intent's age -> one more key and value                                context()     once per chunk
    Euler step      flow time tau -> shifts, scales and gates                             modulation()  once per time

``velocity`` puts the three together and is all that there is to the model; :mod:`syvla_models.flow` calls the parts.

The flow's time modulates every layer (adaLN-zero: Peebles and Xie, Scalable Diffusion Models with Transformers, 2023,
section 3.2). One projection serves all layers, each adding a learned table of its own (adaLN-single: Chen et al.,
PixArt-alpha, 2023, section 2.3), because a projection for each layer would be a third of all parameters.

A token of the chunk is ``rows_per_token`` rows: one for the robot; ten for the twin, because a chunk is smooth and a
tenth of the arithmetic sees many times as many samples in an hour of two CPU cores. A token whose rows are at
different times gets the mean of their modulations.
"""

import math
from typing import NamedTuple, cast

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from syvla.errors import ConfigError
from syvla_models.spec import SLOTS, ExpertConfig

TINY = ExpertConfig(width=128, depth=4, heads=4, mlp_ratio=3.0, rows_per_token=10, aimed=True)
BASE = ExpertConfig(width=1024, depth=17, heads=16)  # the robot's: about 300 M parameters behind Qwen2.5-VL-3B
_PER_LAYER = 9  # shift, scale and gate of the self-attention, the cross-attention and the MLP
_TIME_FEATURES = 128
_LEAST_SHARE, _LEAST_DEVIATION = 0.01, 1e-3  # of the query states' running statistics
_REST, _READ_GAIN = 0.2, 0.5  # of an adapter that begins with a head's numbers: what stays, and how steep these are
_PER_AIM = 4  # numbers of one arm: acts, x, y, z
_AIM_FEATURES = 2 * (_PER_AIM + 3 + 3)
_NEAR = 0.3  # of a measured grasp point's deviation, or of ``_HAND_UNIT_M``: about 3 cm on the twin
_HAND_UNIT_M = 0.1  # of a distance along the hand's axes
_POSE = 9  # slots of an arm's measured state that are its grasp point's: position, two columns of its rotation
_SHORTEST_PERIOD, _LONGEST_PERIOD = 4e-3, 4.0  # of the time's sines; tau is 0..1


def tiny_config(intent_width: int) -> ExpertConfig:
    """The twin's expert, behind a planner whose hidden size is ``intent_width``."""
    return msgspec.structs.replace(TINY, intent_width=intent_width)


def base_config(intent_width: int) -> ExpertConfig:
    """The robot's expert, behind a planner whose hidden size is ``intent_width``."""
    return msgspec.structs.replace(BASE, intent_width=intent_width)


class IntentCache(NamedTuple):
    """Cross-attention keys and values of every layer, of one intent for each of B samples."""

    key: Tensor  # (depth, B, heads, 20, width / heads)
    value: Tensor  # (depth, B, heads, 20, width / heads)
    aim: Tensor  # (1, B, 8), see :class:`Aim`; (1, B, 0) without one

    def repeat(self, samples: int) -> "IntentCache":
        """Each intent ``samples`` times, one after the other: (depth, B * samples, ...)."""
        return IntentCache(*(tensor.repeat_interleave(samples, dim=1) for tensor in self))


class Context(NamedTuple):
    """What one chunk attends to in every layer: its intent and, last, its state."""

    key: Tensor  # (depth, B, heads, 21, width / heads)
    value: Tensor  # (depth, B, heads, 21, width / heads)


class Modulation(NamedTuple):
    """What the flow's time does to every layer; (N, 1 or T, ...) broadcasts over the chunk's T tokens."""

    layers: Tensor  # (N, M, 9 * width), to which each layer adds its own table
    out: Tensor  # (N, M, 2 * width)


class Layer(nn.Module):
    """Self-attention over the chunk's tokens, cross-attention to the context, MLP; each modulated and gated."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        width, hidden = config.width, round(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.table = nn.Parameter(torch.zeros(_PER_LAYER * width))
        self.qkv = nn.Linear(width, 3 * width)
        self.self_out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.cross_out = nn.Linear(width, width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, modulation: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Tokens (B, T, width), modulation (B or 1, 1 or T, 9 * width), key and value (B, heads, 21, width / heads)."""
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = (modulation + self.table).chunk(9, -1)
        q, k, v = self._heads(self.qkv(_modulated(x, shift1, scale1)), 3)
        x = torch.addcmul(x, gate1, self.self_out(_merged(F.scaled_dot_product_attention(q, k, v))))
        (q,) = self._heads(self.query(_modulated(x, shift2, scale2)), 1)
        x = torch.addcmul(x, gate2, self.cross_out(_merged(F.scaled_dot_product_attention(q, key, value))))
        hidden = F.gelu(self.up(_modulated(x, shift3, scale3)))
        return torch.addcmul(x, gate3, self.down(hidden))

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, T, parts * width) to ``parts`` tensors (B, heads, T, width / heads)."""
        split: tuple[Tensor, ...] = x.view(*x.shape[:2], parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return split


class Standard(nn.Module):
    """Query states (..., queries, D) to mean 0 and deviation 1: the mean is each query's own, the deviation of all.

    Final hidden states are mostly constant: between one scene and another a number changes by a thirtieth of its size,
    and an adapter that has to find that first takes many times as long. With one deviation for all queries, what can
    be read from the states of each by one linear map still can be. The statistics are running ones, over what
    :meth:`observe` was given; fresh ones change nothing. A state that is all zero, which is how one is masked, stays
    zero: as far from saying anything as a state can be.
    """

    mean: Tensor
    variance: Tensor
    observed: Tensor

    def __init__(self, queries: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(queries, width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("observed", torch.zeros((), dtype=torch.float32))  # how many times

    @torch.no_grad()
    def observe(self, states: Tensor) -> None:
        """Take in a batch (B, queries, D): the plain average of the first hundred, then a running one."""
        states = states.float()
        self.observed += 1.0
        share = (1.0 / self.observed).clamp(min=_LEAST_SHARE)
        if float(self.observed) == 1.0:
            self.mean.copy_(states.mean(0))
        off = states - self.mean
        self.mean.lerp_(states.mean(0).to(self.mean), share.to(self.mean))
        self.variance.lerp_(off.square().mean((0, 1)).to(self.variance), share.to(self.variance))

    @property
    def deviation(self) -> Tensor:
        """(D,), never so small that noise is blown up."""
        return self.variance.sqrt().clamp(min=_LEAST_DEVIATION)

    def forward(self, states: Tensor) -> Tensor:
        """The same shape and dtype."""
        return (states - self.mean) / self.deviation * (states != 0.0).any(-1, keepdim=True)


class Aim(nn.Module):
    """Where the hands are about to act, as an intent says it in eight numbers, and how far they are from there.

    The numbers are linear in the query states, averaged over those that are not masked: for each arm whether it acts (0
    or 1), and x, y, z of its place. It is training's grounding head (``syvla_models.train.grounding``), whose lengths
    are in units of ``PLACE_UNIT_M``. ``turn`` and ``shift`` bring a place among the slots of what is measured of its
    arm. An expert that had to find that difference of two large numbers by itself did so to a centimetre or two.

    ``in_hand``: along the axes of the measured hand, in tenths of a metre. That is what an ``end_effector`` action
    comes to at the place. ``pose`` is offset and scale of the slots that say where the hand is.
    """

    turn: Tensor
    shift: Tensor
    pose: Tensor

    def __init__(self, width: int, *, in_hand: bool = False) -> None:
        super().__init__()
        self.read = nn.Linear(width, 2 * _PER_AIM)
        self.in_hand = in_hand
        if in_hand:
            self.register_buffer("pose", torch.tensor((0.0, 1.0))[:, None, None].repeat(1, 2, _POSE))
        self.register_buffer("turn", torch.eye(3).repeat(2, 1, 1))
        self.register_buffer("shift", torch.zeros(2, 3))

    def numbers(self, states: Tensor) -> Tensor:
        """(B, 8) of query states (B, queries, D); at least float32, since in bfloat16 a metre has no centimetres."""
        exact = torch.promote_types(states.dtype, torch.float32)
        kept = (states != 0.0).any(-1, keepdim=True)  # what is masked is zero
        mean = states.to(exact).sum(1) / kept.sum(1).clamp(min=1)
        # Products and sums, which no autocast makes less exact.
        return (mean[:, None] * self.read.weight.to(exact)).sum(-1) + self.read.bias.to(exact)

    def forward(self, numbers: Tensor, proprioception: Tensor) -> Tensor:
        """Numbers (B, 8), and how far the places are from the measured grasp points: as it is, and finer near by."""
        acts, place = numbers.unflatten(-1, (2, _PER_AIM)).split((1, 3), dim=-1)
        there = (self.turn.to(place) * place[..., None, :]).sum(-1) + self.shift.to(place)
        hand = proprioception.to(place).unflatten(-1, (2, -1))[..., :_POSE]
        off = there - hand[..., :3]
        if self.in_hand:
            off = self._along_hand(off, hand)
        off = (acts.clamp(0.0, 1.0) * off).flatten(1)
        return torch.cat((numbers, off, torch.tanh(off / _NEAR)), dim=-1).to(proprioception)

    def _along_hand(self, off: Tensor, hand: Tensor) -> Tensor:
        """``off`` (B, 2, 3), in slots along the base's axes, along those of ``hand`` (B, 2, 9)."""
        offset, scale = self.pose.to(off)
        x, y = (hand * scale + offset)[..., 3:].unflatten(-1, (2, 3)).unbind(-2)
        axes = torch.stack((x, y, torch.linalg.cross(x, y)), dim=-2)
        along: Tensor = (axes * (off * scale[:, :3] / _HAND_UNIT_M)[..., None, :]).sum(-1)
        return along


class Expert(nn.Module):
    """The fast system. Fresh weights predict a velocity of exactly 0: the output and all gates begin at zero."""

    def __init__(self, config: ExpertConfig) -> None:
        """ConfigError for sizes that cannot be."""
        super().__init__()
        _check(config)
        self.config = config
        width = config.width
        hidden = config.adapter_width or width
        self.standard = Standard(config.queries, config.intent_width)
        self.adapter = nn.Sequential(nn.Linear(config.intent_width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.aim = Aim(config.intent_width, in_hand=config.aimed_in_hand) if config.aimed else None
        senses = SLOTS + 1 + (_AIM_FEATURES if config.aimed else 0)
        self.state = nn.Sequential(nn.Linear(senses, width), nn.GELU(), nn.Linear(width, width))
        self.context_norm = nn.LayerNorm(width)
        self.context_key_value = nn.Linear(width, 2 * config.depth * width)  # of all layers in one product
        self.time = nn.Sequential(nn.Linear(_TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.time_out = nn.Linear(width, (_PER_LAYER + 2) * width)
        rows = config.rows_per_token
        self.action_in = nn.Linear(rows * config.slots, width)
        self.position = nn.Parameter(torch.randn(config.horizon // rows, width) * 0.02)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.action_out = nn.Linear(width, rows * config.slots)
        for zero in (self.time_out, self.action_out):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    def condition(self, query_states: Tensor) -> IntentCache:
        """Adapter and cross-attention keys and values of query states (B, 20, D); once per intent.

        Every state that was set to zero becomes the same key and value, which the expert learns to read as "nothing
        here".
        """
        key, value = self._key_value(self.adapter(self.standard(query_states)))
        aim = query_states.new_zeros(len(query_states), 0) if self.aim is None else self.aim.numbers(query_states)
        return IntentCache(key, value, aim[None])

    @torch.no_grad()
    def read_at_first(self, weight: Tensor, states: Tensor, generator: torch.Generator | None = None) -> None:
        """Let a fresh adapter begin with what ``weight`` (N, D), a linear head, reads from query states.

        Its hidden units become random directions among the N numbers, each brought to deviation 1 over ``states``
        (B, queries, D), with a rest of what they were. A fresh adapter sees all directions of the states alike, and
        where a hand shall go is a small part of them: left to find it, an expert aimed centimetres short of what a
        linear head read from the same states to the centimetre.
        """
        first = cast(nn.Linear, self.adapter[0])
        centred = (states.float() - self.standard.mean) @ weight.T.float()  # (B, queries, N)
        spread = centred.std(dim=(0, 1)).clamp(min=_LEAST_DEVIATION)
        drawn = torch.randn(len(first.weight), len(weight), generator=generator).to(first.weight)
        read = (weight * self.standard.deviation) / spread[:, None]  # of standardised states
        first.weight.mul_(_REST).add_(_READ_GAIN * drawn @ read)
        first.bias.copy_(torch.randn(len(first.bias), generator=generator))

    def context(self, cache: IntentCache, proprioception: Tensor, age_s: Tensor) -> Context:
        """The cache and one more token: the measured state (B, 32), normalised, and the intent's age (B,) in s."""
        senses = [proprioception, age_s[:, None]]
        if self.aim is not None:
            senses.append(self.aim(cache.aim[0], proprioception))
        state = self.state(torch.cat(senses, dim=-1))
        key, value = self._key_value(state[:, None])
        return Context(torch.cat((cache.key, key), dim=-2), torch.cat((cache.value, value), dim=-2))

    def modulation(self, tau: Tensor) -> Modulation:
        """For flow times (N, M), M one, or one for each token or row; float32 also where the weights are not."""
        width = self.config.width
        features = _time_features(tau).to(self.time_out.weight.dtype)
        return Modulation(*self.time_out(self.time(features)).split((_PER_LAYER * width, 2 * width), dim=-1))

    def denoise(self, x: Tensor, modulation: Modulation, context: Context) -> Tensor:
        """The velocity (B, H, slots) of the noisy chunk x (B, H, slots)."""
        tokens = self.action_in(x.reshape(len(x), len(self.position), -1)) + self.position
        for layer, key, value in zip(self.layers, context.key, context.value, strict=True):
            tokens = layer(tokens, modulation.layers, key, value)
        shift, scale = modulation.out.chunk(2, -1)
        velocity: Tensor = self.action_out(_modulated(tokens, shift, scale)).view(x.shape)
        return velocity

    def velocity(self, x: Tensor, tau: Tensor, proprioception: Tensor, age_s: Tensor, cache: IntentCache) -> Tensor:
        """The velocity of a noisy chunk, from all its inputs.

        Args:
            x: Noisy chunk (B, H, slots), normalised; dead slots are 0.
            tau: Flow time of every row (B, H), 0 noise to 1 clean.
            proprioception: The state measured at the chunk's observation, normalised, (B, 32).
            age_s: How much older the intent's observation is than the chunk's, (B,).
            cache: Of the intents, from :meth:`condition`.

        Returns:
            d x / d tau, (B, H, slots). What it says of dead slots means nothing.
        """
        rows = self.config.rows_per_token
        modulation = Modulation(*(m.unflatten(1, (-1, rows)).mean(2) for m in self.modulation(tau)))
        return self.denoise(x, modulation, self.context(cache, proprioception, age_s))

    forward = velocity

    def _key_value(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Tokens (B, T, width) to keys and values (depth, B, heads, T, width / heads)."""
        both: Tensor = self.context_key_value(self.context_norm(tokens))
        both = both.view(*tokens.shape[:2], 2, self.config.depth, self.config.heads, -1)
        return both.permute(2, 3, 0, 4, 1, 5).unbind(0)


def _time_features(tau: Tensor) -> Tensor:
    """Sines and cosines (..., 128) of flow times (...), float32: the fastest turn 250 times between 0 and 1."""
    low, high = math.log10(_SHORTEST_PERIOD), math.log10(_LONGEST_PERIOD)
    periods = torch.logspace(low, high, _TIME_FEATURES // 2, device=tau.device, dtype=torch.float32)
    angles = 2.0 * math.pi * tau[..., None].float() / periods
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens (B, T, width), normalised, scaled and shifted."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1.0 + scale)


def _merged(heads: Tensor) -> Tensor:
    """(B, heads, H, width / heads) to (B, H, width)."""
    return heads.transpose(1, 2).flatten(2)


def _check(config: ExpertConfig) -> None:
    for name in ("width", "depth", "heads", "intent_width", "queries", "horizon", "slots", "rows_per_token"):
        if getattr(config, name) < 1:
            raise ConfigError(f"expert.{name} must be at least 1, not {getattr(config, name)}")
    if config.width % config.heads:
        raise ConfigError(f"expert.width ({config.width}) must be a multiple of expert.heads ({config.heads})")
    if config.horizon % config.rows_per_token:
        raise ConfigError(
            f"expert.horizon ({config.horizon}) must be a multiple of expert.rows_per_token ({config.rows_per_token})"
        )
    if config.mlp_ratio <= 0.0 or config.adapter_width < 0:
        raise ConfigError("expert.mlp_ratio must be above 0 and expert.adapter_width at least 0")
    if config.aimed_in_hand and not config.aimed:
        raise ConfigError("expert.aimed_in_hand says how an expert is aimed: it needs expert.aimed = true")
