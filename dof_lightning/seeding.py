"""Randomness as pure functions of integers.

Nothing in this project keeps a random state that has to be saved: the random numbers of step s are drawn from a
generator made from (seed, purpose, s, ...), so resuming needs the integers only.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer (SplitMix64)
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def derive_seed(*key: int | str) -> int:
    """Maps integers and words to one 63-bit seed; different keys give independent streams.

    Args:
        key: non-negative integers and words, for example `(seed, "noise", step, rank)`.
    """
    words = [int.from_bytes(part.encode(), "little") if isinstance(part, str) else part for part in key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A `torch.Generator` that is a pure function of its key (see `derive_seed`)."""
    return torch.Generator(device=device).manual_seed(derive_seed(*key))


@contextmanager
def global_randomness_of(generator: torch.Generator) -> Iterator[None]:
    """Makes draws from torch's global stream (dropout) a function of the generator's seed.

    The global stream is restored afterwards. Nothing waits for a device.
    """
    on_gpu = generator.device.type == "cuda"
    with torch.random.fork_rng(devices=[generator.device] if on_gpu else []):
        torch.manual_seed(generator.initial_seed())
        yield


def counter_uniform(seeds: Tensor, count: int) -> Tensor:
    """Uniform numbers, of which row e depends on `seeds[e]` only, whatever the other rows are.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) evaluated at `count` counters, vectorised over the seeds.

    Args:
        seeds: `[E]` int64.
        count: number of random numbers per seed.

    Returns:
        `[E, count]` float64 in [0, 1).
    """
    start = _mix(seeds.to(torch.int64)[:, None] * _GOLDEN_GAMMA)
    counter = torch.arange(1, count + 1, device=seeds.device, dtype=torch.int64)
    bits = _mix(start + counter * _GOLDEN_GAMMA)
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    return (bits >> places) & ((1 << (64 - places)) - 1)
