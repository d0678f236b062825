"""What `gentool data check` finds before training does."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from gentool.data.config import ImageData
from gentool.data.decode import flatten, is_grey, load
from gentool.data.images import Images
from gentool.data.source import Data, Example, RawImage, Sharded
from gentool.errors import BadDataError


@dataclass(frozen=True)
class Problem:
    """A record that cannot be used."""

    key: str
    reason: str


@dataclass
class Report:
    """What a scan found. The counts are of the readable records."""

    n: int = 0  # records looked at, unreadable ones included
    bad: list[Problem] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)  # "WIDTHxHEIGHT"
    modes: Counter[str] = field(default_factory=Counter)  # Pillow's names: RGB, L, RGBA, CMYK, ...
    labels: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)  # usable, but worth knowing
    transparent: int = 0
    small: int = 0  # shorter side below image_size
    no_caption: int = 0
    no_label: int = 0


def scan(
    data: Data,
    config: ImageData,
    report: Report,
    num: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Problem]:
    """Look at every record, or the first `num`; fill `report` and yield problems as found.
    `progress` is called for every record.

    `num` must be given for an endless source. What is wrong with a shard, not with one of its
    records, counts as a record. Notes are complete when the scan has ended.
    """
    for key, read in islice(_all(data, num), num):
        report.n += 1
        progress()
        try:
            _look(read(), data.labels, config, report)
        except BadDataError as error:
            reason = str(error)
            key = key or reason.partition(": ")[0]
            problem = Problem(key, reason.removeprefix(f"{key}: "))
            report.bad.append(problem)
            yield problem
    report.notes = _notes(data, config, report)


def _all(data: Data, num: int | None) -> Iterator[tuple[str, Callable[[], RawImage | Example]]]:
    """Each record's name (none for a damaged shard) and what reads it, in order."""
    if isinstance(data, Sharded):
        for shard in range(data.shards):
            try:
                for record in data.records(shard):
                    yield record.key, record.raw
            except BadDataError as error:
                yield "", partial(_damaged, error)
        return
    end = num if data.size is None else data.size
    assert end is not None, "an endless source needs num"
    for index in range(end):
        if isinstance(data, Images):
            record = data.record(index)
            yield record.key, record.raw
        else:
            yield f"record {index}", partial(data.__getitem__, index)


def _damaged(error: BadDataError) -> RawImage:
    raise error


def _look(
    found: RawImage | Example, labels: Sequence[str], config: ImageData, report: Report
) -> None:
    if isinstance(found, RawImage):
        picture = load(found.data, found.key)
        flatten(picture)
        report.transparent += picture.has_transparency_data
        (width, height), mode = picture.size, picture.mode
    else:
        height, width, channels = found.image.shape
        mode = "L" if channels == 1 else "RGB"
    report.sizes[f"{width}x{height}"] += 1
    report.modes[mode] += 1
    report.small += min(width, height) < config.image_size
    report.no_caption += not found.caption
    report.no_label += found.label is None
    if found.label is not None:
        report.labels[labels[found.label]] += 1


def _notes(data: Data, config: ImageData, report: Report) -> list[str]:
    read = report.n - len(report.bad)
    grey = sum(n for mode, n in report.modes.items() if is_grey(mode))
    notes = []
    if 0 < grey < read:
        notes.append(f"{grey} of {read} images are grey, the others in colour")
    if grey and config.channels == 3:
        notes.append(f"{grey} grey images become RGB (channels = 3)")
    if grey < read and config.channels == 1:
        notes.append(f"{read - grey} colour images become grey (channels = 1)")
    if report.transparent:
        notes.append(f"{report.transparent} images have transparency, which is put on white")
    if report.small:
        notes.append(f"{report.small} images are smaller than {config.image_size} and enlarged")
    if 0 < report.no_caption < read:
        notes.append(f"{report.no_caption} of {read} images have no caption")
    if data.labels and report.no_label:
        notes.append(f"{report.no_label} of {read} images have no label")
    if isinstance(data, Images) and data.left_out:
        first = data.left_out[0]
        notes.append(
            f"{len(data.left_out)} images are not in the metadata and left out, such as {first}"
        )
    if isinstance(data, Images) and data.unused and not data.columns.caption:
        names = ", ".join(data.unused)
        notes.append(f"columns that are not used: {names} (caption_column, label_column)")
    return notes
