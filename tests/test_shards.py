"""Tar shards: their order, resuming, what is held out, and what a record is."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import fails, log_of, weights_of
from tars import SIZES, pictures, places, png, record, shard, shards, tars

from gentool.data.config import ImageData
from gentool.data.holdout import held_out, train_and_validation
from gentool.data.images import open_images
from gentool.data.loader import Loader
from gentool.data.stream import open_stream
from gentool.data.tar import expand
from gentool.errors import BadDataError, NotFoundError, UsageError
from gentool.rng import generator

EMOJI = Path(__file__).parents[2] / "shared/data/emoji"


# Order


def test_every_epoch_is_another_permutation(tmp_path, window):
    source = tars(shards(tmp_path))
    walked = places(open_stream(source, seed=1), 60)
    epochs = [[where[1:3] for where in walked if where[0] == epoch] for epoch in range(3)]
    everything = [(s, i) for s, size in enumerate(SIZES) for i in range(size)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    orders = {tuple(dict.fromkeys(s for s, _ in epoch)) for epoch in epochs}
    assert len(orders) > 1 and all(len(order) == 3 for order in orders)  # one shard at a time
    assert walked != places(open_stream(source, seed=2), 60)
    for epoch in epochs:  # one window after the other, and shuffled inside
        numbers = [i for s, i in epoch if s == 0]
        assert [i // 4 for i in numbers] == sorted(i // 4 for i in numbers)
    inside = {tuple(i for s, i in epoch if s == 0) for epoch in epochs}
    assert len(inside | {tuple(range(10))}) == 4


def test_windows_have_1024_records(tmp_path):
    source = tars(shards(tmp_path, (1030,)))
    numbers = [place[2] for place in places(open_stream(source, 0), 1030)]
    assert sorted(numbers[:1024]) == list(range(1024)) != numbers[:1024]
    assert sorted(numbers[1024:]) == list(range(1024, 1030))


@pytest.mark.parametrize("validates", [False, True])
def test_goes_on_from_any_cursor(tmp_path, window, validates):
    config = ImageData(spec=(shards(tmp_path),))
    source = train_and_validation(config)[0] if validates else open_images(config)
    whole = places(open_stream(source, 1), 65)
    for cut in range(65):
        first, second = open_stream(source, 1), open_stream(source, 1)
        first.next(cut)
        cursor = json.loads(json.dumps(first.cursor))
        assert set(cursor) == {"epoch", "shard", "window", "offset"} and cursor["offset"] <= 4
        second.seek(cursor)
        assert second.cursor == cursor
        assert places(second, 65 - cut) == whole[cut:]


def test_processes_share_one_order(tmp_path, window):
    source = tars(shards(tmp_path))
    ranks = [open_stream(source, 1, rank, world=2) for rank in range(2)]
    shares = [[*places(rank, 3), *places(rank, 20)] for rank in ranks]
    together = [place for both in zip(*shares, strict=True) for place in both]
    assert together == places(open_stream(source, 1), 46)
    assert ranks[0].cursor == ranks[1].cursor
    three = [open_stream(source, 1, rank, world=3) for rank in range(3)]
    for stream in three:
        stream.seek(ranks[0].cursor)
    alone = open_stream(source, 1)
    alone.next(46)
    assert [places(stream, 1)[0] for stream in three] == places(alone, 3)


def test_noise_belongs_to_the_record(tmp_path):
    """The generator of an example is that of its shard and number, whatever its place."""
    spec = shards(tmp_path)
    config = ImageData(spec=(spec,), image_size=4)
    stream = open_stream(tars(spec), 5)
    where = {place[3]: place[1:3] for place in places(open_stream(tars(spec), 5), 20)}
    loader = Loader(stream, pictures(config), config, print)
    for number, example in enumerate(loader.next(40)):
        epoch = number // 20
        expected = generator("train", 5, epoch, *where[example.key])
        torch.rand(3, generator=expected)  # flip and crop
        assert torch.equal(*(torch.randn(4, generator=g) for g in (example.rng, expected)))
    loader.close()


# --- records chosen by their .json


def numbers(data) -> list[str]:
    return [record.raw().caption for i in range(data.shards) for record in data.records(i)]


@pytest.mark.parametrize("where, kept", [
    ([], range(20)),
    (["n>=15"], range(15, 20)),
    (["n > 3", "n<=5.0"], (4, 5)),
    (["en==number 7"], (7,)),
    (["n!=0"], range(1, 20)),
    (["none>=0"], ()),
    (["none==x"], ()),
    (["en>=3"], ()),
])  # fmt: skip
def test_records_are_chosen_by_a_field(tmp_path, where, kept):
    spec = shards(tmp_path)
    assert numbers(tars(spec, where=tuple(where))) == [f"number {n}" for n in kept]


def test_a_choice_of_records_is_resumed_in_the_same_order(tmp_path, window):
    data = tars(shards(tmp_path), where=("n!=4", "n!=11"))
    assert data.fingerprint != tars(shards(tmp_path)).fingerprint
    whole = places(open_stream(data, 3), 40)
    assert len({place[1:3] for place in whole[:18]}) == 18  # an epoch has each of them once
    for cut in (1, 7, 17, 25):
        first, second = open_stream(data, 3), open_stream(data, 3)
        first.next(cut)
        second.seek(first.cursor)
        assert places(second, 40 - cut) == whole[cut:]


def test_what_cannot_be_chosen_by(tmp_path, cli):
    spec = shards(tmp_path)
    for text in ("n", "n>=", "n>=many", ">=3"):
        with pytest.raises(UsageError, match="data.where takes"):
            tars(spec, where=(text,))
    with pytest.raises(UsageError, match="data.where chooses among records of tar shards"):
        open_images(ImageData(where=("n>=1",)))
    result = cli("data", "check", spec, "--set", "where=similarity>=0.3")
    assert result.code == 4 and "has no field 'similarity'" in result.err + result.out
    bare = shard(tmp_path / "bare.tar", [("a.png", png(1))])
    with pytest.raises(BadDataError, match="no .json to look for 'n' in"):
        numbers(tars(bare, where=("n>=1",)))
    result = cli("data", "check", spec, "--set", "where=n>=15", "--json")
    assert result.code == 0 and result.records[-1]["records"] == 5


def read_so_far() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="counts the bytes of a Linux process"
)
def test_resuming_reads_a_window_and_not_the_shard(tmp_path, window):
    body = bytes(1 << 17)
    path = shard(tmp_path / "x.tar", [(f"{i}.png", body) for i in range(80)])
    stream = open_stream(tars(path), 0)
    before = read_so_far()
    stream.seek({"epoch": 0, "shard": 0, "window": 19, "offset": 2})
    [place] = stream.next(1)
    headers = read_so_far() - before
    assert headers < 80 * 5000 + 10_000 < path.stat().st_size / 20
    assert place.identity[1] >= 76 and len(place.source.records) == 4
    place.source.records[0].raw()
    assert read_so_far() - before - headers < len(body) + 10_000


# Validation


def test_held_out_records_are_never_trained_on(tmp_path):
    config = ImageData(spec=(shards(tmp_path, (100, 30, 5)),))
    train, held = train_and_validation(config)
    kept = {held._window.records[i].key for i in range(held.size)}
    trained = {place[3] for place in places(open_stream(train, 0), 400)}
    everything = {r.key for s in range(3) for r in train.source.records(s)}
    assert trained | kept == everything and not trained & kept
    assert [key.split()[1] for key in sorted(kept)] == [
        "0-0", "0-20", "0-40", "0-60", "0-80", "1-19",
    ]  # fmt: skip
    assert held[1].caption == "number 20"


def test_no_more_than_512_are_held_out():
    for count in (1, 4, 31, 32, 40_000):
        held = [held_out(n, s, count) for s in range(min(count, 40)) for n in range(11_000)]
        assert 480 <= sum(held) <= 512


# What a record is


def test_layouts(tmp_path):
    """Other writers' habits: folders, hidden files, `./`, upper case, several dots, no caption."""
    path = shard(
        tmp_path / "x.tar",
        [
            ("./a.PNG", png(1)),
            ("./._a.png", b"resource fork"),
            ("__index", b"no extension"),
            ("b/.hidden/x.png", b"hidden"),
            ("b/c.JPG", png(2)),
            ("b/c.mask.png", b"not this one"),
            ("b/c.txt", b"  eine Ente\n"),
            ("c.webp", png(3)),
        ],
    )
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("folder.d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    records = list(tars(path).records(0))
    assert [r.key for r in records] == ["x.tar a", "x.tar b/c", "x.tar c"]
    assert [r.raw().caption for r in records] == ["", "eine Ente", ""]
    assert [int(r.raw().example().image[0, 0, 0]) for r in records] == [1, 2, 3]


def test_captions_of_any_field(tmp_path):
    spec = shards(tmp_path, (2,))
    for field, caption in (("", "number 1"), ("zh", "第1"), ("none", "")):
        assert list(tars(spec, caption_column=field).records(0))[1].raw().caption == caption
    for field, message in (("fr", "no field 'fr', it has en, zh"), ("n", "holds int, not text")):
        with pytest.raises(BadDataError, match=f"^shard-0.tar 0-0: .*{message}"):
            next(tars(spec, caption_column=field).records(0)).raw()
    with pytest.raises(UsageError, match="no class"):
        tars(spec, label_column="n")


def test_patterns(tmp_path):
    for name in ("s-08", "s-09", "s-10", "t-a", "t-b", "t-{x}"):
        (tmp_path / f"{name}.tar").touch()

    def names(pattern):
        return [Path(name).stem for name in expand(str(tmp_path / pattern))]

    assert names("s-{08..10}.tar") == names("s-*.tar") == ["s-08", "s-09", "s-10"]
    assert names("t-{a,b}.tar") == ["t-a", "t-b"]
    assert names("[st]-{1..1}{0..0}.tar") == ["s-10"]
    assert names("t-{x}.tar") == ["t-{x}"]
    with pytest.raises(NotFoundError, match="s-11.tar$"):
        names("s-{08..12}.tar")
    with pytest.raises(NotFoundError, match="u-"):
        names("u-*.tar")


def test_fingerprint(tmp_path):
    spec = shards(tmp_path)
    before = tars(spec).fingerprint
    assert tars(str(tmp_path / "*.tar")).fingerprint == before
    shard(tmp_path / "shard-1.tar", record("1-0", 9))
    assert tars(spec).fingerprint != before


# Commands


def test_what_is_wrong_with_a_spec(tmp_path, train, cli):
    spec = shards(tmp_path)
    (tmp_path / "x.tar.gz").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(png(0))
    for code, named, *specs in (
        (3, "shard-3.tar", spec.replace("..2", "..5")),
        (3, "no file", tmp_path / "z*.tar"),
        (4, "compressed", tmp_path / "x.tar.gz"),
        (2, "cannot be joined", spec, tmp_path / "photos"),
        (3, "no-such", f"hf:{tmp_path}/no-such"),
    ):
        result = train(*(a for s in specs for a in ("--data", s)), "--dry-run")
        assert (result.code, result.out) == (code, "") and named in result.err, result.err
        assert len(result.err.splitlines()) <= 2
    result = train("--data", spec, "--dry-run")
    assert result.code == 0 and "3 shards" in result.err + result.out
    sheet = tmp_path / "sheet.png"
    result = cli("data", "show", spec, "--start", 9, "-n", 3, "--out", sheet)
    assert result.out.splitlines() == ["9  number 9", "10  number 10", "11  number 11"]
    assert cli("data", "show", spec, "--start", 20, "--out", sheet).code == 2


@pytest.mark.skipif(not EMOJI.exists(), reason="no emoji here")
def test_a_run_on_shards_that_was_cut_ends_in_the_same_bytes(train, cli, tmp_path):
    spec = ("--data", EMOJI / "emoji-{00000..00003}.tar", "--set", "data.caption_column=de")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(*spec, "--steps", 20, out=whole).code == 0
    for stop in (7, 13):
        assert train(*spec, "--steps", 20, "--stop-at", stop, "--resume", "auto", out=cut).code == 0
    assert train(*spec, "--steps", 20, "--resume", "latest", out=cut).code == 0
    assert weights_of(cut) == weights_of(whole) and log_of(cut) == log_of(whole)
    result = cli("eval", "ddpm", "--checkpoint", cut, "--metric", "loss", "--num", 30,
                 "--data", EMOJI / "emoji-0000[12].tar", "--json")  # fmt: skip
    assert result.code == 0 and result.records[0]["n"] == 30


def test_a_bad_record_stops_a_run_or_is_counted(train, tmp_path):
    members = [m for k in range(60) for m in record(f"k{k}", k)]
    members[9] = ("k3.png", b"GIF")
    spec = ("--data", shard(tmp_path / "x.tar", members), "--steps", 20)
    result = train(*spec, out=tmp_path / "stops")
    assert result.code == 4 and "x.tar k3: not a PNG" in result.err
    result = train(*spec, "--set", "data.on_error=skip", out=tmp_path / "skips")
    assert result.code == 0 and "skipped: x.tar k3: not a PNG" in result.err
    told = [record["skipped"] for record in log_of(tmp_path / "skips") if "loss" in record]
    assert told[-1] >= 1  # 80 examples of 57 records: some of them twice


def test_fewer_than_asked_for_are_measured_once(train, cli, tmp_path):
    spec = shards(tmp_path)
    assert train("--steps", 1).code == 0
    result = cli("eval", "ddpm", "--checkpoint", tmp_path / "run", "--metric", "loss",
                 "--data", spec, "--num", 500, "--json")  # fmt: skip
    assert result.records[0]["n"] == 20


def test_what_chose_records_is_not_for_other_data(train, cli, tmp_path):
    spec = ("--data", shards(tmp_path), "--set", "data.where=n!=4", "--steps", 1)
    assert train(*spec, "--set", "train.validate_every=0").code == 0
    result = cli("eval", "ddpm", "-c", tmp_path / "run", "--metric", "loss", "-n", 4, "-q",
                 "--data", "scenes:test")  # fmt: skip
    assert result.code == 0, result.err


def test_that_nothing_is_held_out_is_told_before_training(train, tmp_path):
    spec = shards(tmp_path)
    nothing = ("--data", spec, "--set", "data.image_size=8", "--set", "data.where=n==1", "-q")
    result = train(*nothing, "--set", "train.validate_every=5", "--steps", 5)
    fails(result, 4, "nothing to validate on", "train.validate_every=0")
    assert not (tmp_path / "run").exists()
    result = train(*nothing, "--set", "train.validate_every=0", "--steps", 2)
    assert result.code == 0, result.err
