"""What `gentool data check` finds before training does."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from gentool.data.config import ImageData
from gentool.data.decode import flatten, load
from gentool.data.images import Images
from gentool.data.source import Source
from gentool.errors import BadDataError

GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B")


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
    source: Source, config: ImageData, report: Report, num: int | None = None
) -> Iterator[Problem]:
    """Look at every record, or the first `num`; fill `report` and yield problems as found.

    `num` must be given for an endless source. Notes are complete when the scan has ended.
    """
    end = num if source.size is None else min(num or source.size, source.size)
    assert end is not None, "an endless source needs num"
    for index in range(end):
        report.n += 1
        try:
            _look(source, index, config, report)
        except BadDataError as error:
            key = source.key(index) if isinstance(source, Images) else f"record {index}"
            problem = Problem(key, str(error).removeprefix(f"{key}: "))
            report.bad.append(problem)
            yield problem
    report.notes = _notes(source, config, report)


def _look(source: Source, index: int, config: ImageData, report: Report) -> None:
    if isinstance(source, Images):
        record = source.raw(index)
        picture = load(record.data, record.key)
        flatten(picture)
        report.transparent += picture.has_transparency_data
        (width, height), mode = picture.size, picture.mode
        caption, label = record.caption, record.label
    else:
        example = source[index]
        height, width, channels = example.image.shape
        mode = "L" if channels == 1 else "RGB"
        caption, label = example.caption, example.label
    report.sizes[f"{width}x{height}"] += 1
    report.modes[mode] += 1
    report.small += min(width, height) < config.image_size
    report.no_caption += not caption
    report.no_label += label is None
    if label is not None:
        report.labels[source.labels[label]] += 1


def _notes(source: Source, config: ImageData, report: Report) -> list[str]:
    read = report.n - len(report.bad)
    grey = sum(report.modes[mode] for mode in GREY)
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
    if source.labels and report.no_label:
        notes.append(f"{report.no_label} of {read} images have no label")
    return notes
