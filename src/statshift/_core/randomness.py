"""Random numbers addressed by (seed, image index, purpose, position).

A draw is a pure function of its address, so an image gets the same noise whatever the batch, order, worker or
device it meets. A 64-bit key is mixed from seed, purpose and index (a SplitMix64 finaliser); the values of a key
come from a 32-bit hash of the position, in plain integer tensor operations that wrap alike on every device.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 1024  # normals are made in blocks of this many positions, the first half paired with the second
_CACHE = 1 << 17  # elements worked on at once on the CPU: two int32 buffers of this length fit a core's cache
_GOLDEN = 0x9E3779B97F4A7C15


def _signed(value: int, width: int) -> int:
    """Return the low `width` bits of `value` as a two's-complement integer."""
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


def _finalise(state: Tensor) -> Tensor:
    """SplitMix64's finaliser on an int64 tensor (Steele, Lea & Flood, OOPSLA 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor, 64)
    return state ^ ((state >> 31) & ((1 << 33) - 1))


def keys(seed: int, indices: Tensor, purpose: str) -> Tensor:
    """Return one 64-bit key per image, as two 32-bit words.

    Args:
        seed: any integer; taken modulo 2**64.
        indices: (B,) int64, the images' indices in their data set.
        purpose: what is drawn; streams of different purposes are independent.

    Returns:
        (B, 2) int32 on the device of `indices`.
    """
    word = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    state = _finalise(torch.full_like(indices, _signed(seed * _GOLDEN + word, 64)))
    state = _finalise(state + indices * _signed(_GOLDEN, 64))
    return torch.stack([state.int(), (state >> 32).int()], dim=1)


def bits(keys: Tensor, count: int) -> Tensor:
    """Return (B, count) int32 of uniform bits: position p of key k, the same for every `count`.

    The positions walk a Weyl sequence from the key's first word; two multiply-and-shift rounds (the constants of
    C. Wellons' lowbias32) mix it, and the second word enters between them, so that streams of different second words
    are no shifts of one another.
    """
    rows = max(1, _CACHE // max(1, count)) if keys.device.type == "cpu" else len(keys)
    walk = torch.arange(count, dtype=torch.int32, device=keys.device) * _signed(0x9E3779B1, 32)
    out = torch.empty(len(keys), count, dtype=torch.int32, device=keys.device)
    scratch = torch.empty(min(rows, len(keys)), count, dtype=torch.int32, device=keys.device)
    for start in range(0, len(keys), rows):
        first, second = keys[start : start + rows, :1], keys[start : start + rows, 1:]
        state = torch.add(walk, first, out=out[start : start + rows])
        shifted = scratch[: len(state)]
        _fold(state, shifted, 16).mul_(0x7FEB352D).add_(second)
        _fold(state, shifted, 15).mul_(_signed(0x846CA68B, 32))
        _fold(state, shifted, 16)
    return out


def _fold(state: Tensor, scratch: Tensor, shift: int) -> Tensor:
    """XOR the int32 `state` with itself shifted right (zeros shifted in), in place."""
    torch.bitwise_right_shift(state, shift, out=scratch).bitwise_and_((1 << (32 - shift)) - 1)
    return state.bitwise_xor_(scratch)


def uniform(keys: Tensor, *shape: int) -> Tensor:
    """Return (B, *shape) float32, uniform on the 2**23 midpoints of (0, 1); the ends are never met."""
    return _unit(bits(keys, math.prod(shape))).view(len(keys), *shape)


def _unit(state: Tensor) -> Tensor:
    """Turn int32 bits into float32 in (0, 1), exactly: the top 23 bits and a half."""
    return (state >> 9).bitwise_and_((1 << 23) - 1).float().add_(0.5).mul_(2.0**-23)


def normal(keys: Tensor, *shape: int) -> Tensor:
    """Return (B, *shape) float32, standard normal, by the Box-Muller transform; the largest magnitude is 5.77."""
    count = math.prod(shape)
    blocks = -(-count // _BLOCK)
    draws = bits(keys, blocks * _BLOCK).view(len(keys), blocks, 2, _BLOCK // 2)
    radius = _unit(draws[:, :, 0]).log_().mul_(-2).sqrt_()
    angle = _unit(draws[:, :, 1]).mul_(2 * math.pi)
    out = torch.empty(draws.shape, dtype=torch.float32, device=keys.device)
    torch.mul(radius, angle.cos(), out=out[:, :, 0])
    torch.mul(radius, angle.sin_(), out=out[:, :, 1])
    return out.flatten(1)[:, :count].reshape(len(keys), *shape)


@dataclass(frozen=True)
class Draws:
    """The random fields of a batch of images under one scope (a corruption and its severity, say).

    Attributes:
        seed: the run's seed.
        indices: (B,) int64, on the device where the fields are wanted.
        scope: the prefix of every purpose.
    """

    seed: int
    indices: Tensor
    scope: str

    def keys(self, purpose: str) -> Tensor:
        """Return the (B, 2) int32 keys of one field."""
        return keys(self.seed, self.indices, f"{self.scope}/{purpose}")

    def uniform(self, purpose: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return (B, *shape) float32, uniform in (low, high)."""
        field = uniform(self.keys(purpose), *shape)
        return field if (low, high) == (0.0, 1.0) else field.mul_(high - low).add_(low)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Return (B, *shape) float32, standard normal."""
        return normal(self.keys(purpose), *shape)

    def integers(self, purpose: str, *shape: int, low: int, high: int) -> Tensor:
        """Return (B, *shape) int64, uniform in {low, ..., high - 1}."""
        return self.uniform(purpose, *shape).mul_(high - low).long().add_(low)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's generator of the CPU begin with a seed; afterwards it is where it was.

    The weights of a network that is built meanwhile are the seed's, whatever was drawn before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
