"""Randomness: every draw comes from a generator seeded by what the draw is for.

Sample *i* of seed *s* owns one generator, and so does example *e* of epoch *n* in training. A draw
for a batch is a draw from each of its members' generators in turn, on the CPU, so it is the same
bit for bit whatever the batch size, the order, the number of processes or the device.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from what a draw is for, e.g. `seed_of("sample", seed, index)`.

    torch's CPU generator goes by the last 32 of them: of 50,000 samples of a seed two are the same
    with a chance of a quarter, of 1,000 with one of 1 in 8,600.
    """
    text = "\0".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


class BatchRng:
    """One generator per batch member, drawn from together."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)

    @classmethod
    def for_samples(cls, seed: int, indices: Sequence[int], candidate: int = 0) -> "BatchRng":
        """The generators of samples `indices` of `seed`; another draw of each by `candidate`."""
        other = (candidate,) if candidate else ()
        return cls([generator("sample", seed, index, *other) for index in indices])

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, [B, *shape] float32 on the CPU."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators])

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0, 1), [B, *shape] on the CPU."""
        return torch.stack([torch.rand(shape, generator=g, dtype=dtype) for g in self.generators])

    def integers(self, high: int) -> Tensor:
        """Uniform integers in 0..high-1, [B] int64 on the CPU."""
        draws = [torch.randint(high, (), generator=g) for g in self.generators]
        return torch.stack(draws)


@contextmanager
def torch_seed(*parts: int | str) -> Iterator[None]:
    """Seed torch's global generators for a block and put them back: initialisation and dropout.

    The one place that touches global random state (torch offers dropout no generator).
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(*parts))
        yield
