"""The order of examples, and the loader that decodes them ahead."""

import json

import numpy as np
import pytest
import torch
from tars import pictures

from gentool.data.config import ImageData
from gentool.data.loader import Loader
from gentool.data.source import Example
from gentool.data.stream import open_stream
from gentool.errors import BadDataError


class Listed:
    """A source in memory; the indices in `bad` cannot be read."""

    labels: tuple[str, ...] = ()
    fingerprint = "listed"

    def __init__(self, size, bad=()):
        self.size = size
        self.bad = set(bad)

    def __getitem__(self, index):
        if index in self.bad:
            raise BadDataError(f"record {index}: damaged")
        return Example(f"record {index}", np.full((4, 4, 3), index % 256, dtype=np.uint8))


def loader_of(source, seed=0, cursor=None, report=lambda message: None, **config):
    config = ImageData(image_size=4, **config)
    loader = Loader(open_stream(source, seed), pictures(config), config, report)
    if cursor:
        loader.seek(cursor)
    return loader


def pairs_of(stream, n):
    return [(place.epoch, place.index) for place in stream.next(n)]


def number(prepared):
    return int(prepared.key.removeprefix("record "))


# Order


def test_stream_visits_every_record_once_an_epoch():
    pairs = pairs_of(open_stream(Listed(7), seed=1), 21)
    epochs = [[i for e, i in pairs if e == epoch] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert pairs != pairs_of(open_stream(Listed(7), seed=2), 21)
    assert pairs_of(open_stream(Listed(None), seed=1), 3) == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("size", [7, None])
def test_stream_goes_on_from_any_cursor(size):
    source = Listed(size)
    whole = open_stream(source, seed=1).next(20)
    for cut in range(20):
        first, second = open_stream(source, 1), open_stream(source, 1)
        first.next(cut)
        second.seek(json.loads(json.dumps(first.cursor)))
        assert second.next(20 - cut) == whole[cut:]


@pytest.mark.parametrize("size", [7, None])
def test_two_ranks_share_one_order(size):
    ranks = [open_stream(Listed(size), 1, rank, world=2) for rank in range(2)]
    shares = [[*pairs_of(rank, 3), *pairs_of(rank, 7)] for rank in ranks]
    together = [pair for both in zip(*shares, strict=True) for pair in both]
    assert together == pairs_of(open_stream(Listed(size), 1), 20)
    assert ranks[0].cursor == ranks[1].cursor


# Loading


def test_loader_keeps_the_order_and_resumes():
    source = Listed(11)
    order = pairs_of(open_stream(source, 0), 30)
    whole = loader_of(source, workers=4)
    batches = [whole.next(5) for _ in range(6)]
    assert [(x.epoch, number(x)) for batch in batches for x in batch] == order
    first = batches[0][0]
    assert (first.value.image.shape, first.value.image.dtype) == ((3, 4, 4), torch.float32)
    assert torch.equal(first.value.image, torch.full((3, 4, 4), number(first) / 127.5 - 1))
    whole.close()

    cut = loader_of(source)
    cut.next(5)
    cut.next(3)
    cursor = json.loads(json.dumps(cut.cursor))
    counts = {"seen": 8, "skipped": 0, "too_long": 0}
    assert cursor == {"epoch": 0, "shard": 0, "window": 0, "offset": 8, **counts}
    cut.close()
    again = loader_of(source, cursor=cursor)
    rest = again.next(22)
    assert [(x.epoch, number(x)) for x in rest] == order[8:]
    draws = [[torch.randn((), generator=x.rng) for x in xs] for xs in (rest[-5:], batches[5])]
    assert draws[0] == draws[1]
    again.seek(cursor)
    assert [(x.epoch, number(x)) for x in again.next(4)] == order[8:12]
    again.close()


def test_loader_stops_at_a_bad_record():
    loader = loader_of(Listed(8, bad=[3]))
    with pytest.raises(BadDataError, match="^record 3: damaged"):
        loader.next(8)
    loader.close()


def test_loader_skips_and_counts():
    told: list[str] = []
    source = Listed(200, bad=[3, 199])
    loader = loader_of(source, on_error="skip", workers=4, report=told.append)
    batch = loader.next(200)
    got = [number(x) for x in batch]
    assert [number(x) for x in batch if not x.own] == [
        i
        for i, (_, was) in zip(got, pairs_of(open_stream(source, 0), 200), strict=True)
        if i != was
    ]
    expected = [i for _, i in pairs_of(open_stream(source, 0), 200)]
    assert got == [{3: 4, 199: 0}.get(i, i) for i in expected]
    assert (loader.skipped, loader.cursor["skipped"], loader.cursor["offset"]) == (2, 2, 0)
    assert sorted(told) == ["skipped: record 199: damaged", "skipped: record 3: damaged"]
    loader.next(600)
    assert len(told) == 5
    loader.close()


@pytest.mark.parametrize("bad", [range(3), range(0, 200, 2)])
def test_loader_skips_only_so_many(bad):
    loader = loader_of(Listed(200, bad=bad), on_error="skip")
    loader.next(999)
    with pytest.raises(BadDataError, match="of 1000 records cannot be read, more than 1 %"):
        loader.next(1)
    loader.close()


@pytest.mark.parametrize("size", [5, None])
def test_loader_gives_up_when_nothing_can_be_read(size):
    loader = loader_of(Listed(size, bad=range(5000)), on_error="skip")
    with pytest.raises(BadDataError, match="records in a row cannot be used"):
        loader.next(1)
    loader.close()
