"""Tables through Hugging Face `datasets`: quiet, with its failures as ours, and their columns."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gentool.data.config import ImageData
from gentool.errors import BadDataError, GentoolError, MachineError, nearest

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset


@dataclass(frozen=True)
class ImageColumns:
    """The columns in use; label and caption are empty where there is no such column."""

    image: str
    label: str
    caption: str

    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys(name for name in (self.image, self.label, self.caption) if name))


def build(kind: str, spec: str, paths: Sequence[str], **options: Any) -> "Dataset":
    """The rows of `paths` as builder `kind` (`imagefolder` or `parquet`) reads them.

    The builder is called directly: `load_dataset` would read the network, take splits from file
    names and unpack archives. The cache is keyed by each file's path, size and time. Raises
    BadDataError for files that cannot be read, MachineError if the cache cannot be written.
    """
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.parquet.parquet import Parquet

    builder_class = {"imagefolder": ImageFolder, "parquet": Parquet}[kind]
    paths = [os.path.abspath(path) for path in paths]
    stats = [os.stat(path) for path in paths]
    versions = [(str(stat.st_size), str(stat.st_mtime_ns)) for stat in stats]
    files = DataFilesDict({"train": DataFilesList(paths, versions)})
    try:
        with quiet():
            builder = builder_class(data_files=files, **options)
            builder.download_and_prepare()
            return builder.as_dataset(split="train")
    except Exception as error:  # of pyarrow, pandas, the file system and datasets itself
        raise _translated(error, spec) from error


def parquet_footer(path: Path) -> tuple["Features", int]:
    """The columns and the number of rows of a parquet file. Raises BadDataError."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            features = datasets.Features.from_arrow_schema(file.schema_arrow)
            return features, file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, OSError) and error.errno:
            raise MachineError(f"cannot read {path}: {error.strerror}") from error
        raise BadDataError(
            f"{path} is not a readable parquet file: {_first_line(error)}"
        ) from error


def pick(features: "Features", config: ImageData, spec: str) -> ImageColumns:
    """The columns that `config` names, else those found by type and name.

    Raises BadDataError for a named column that is not there or of a wrong type, when there is no
    image column, and when several columns could be meant.
    """
    from datasets import ClassLabel, Image

    def find(
        role: str, named: str, fits: Callable[[Any], bool], guesses: Sequence[list[str]]
    ) -> str:
        if named and named not in features:
            raise BadDataError(f"{spec} has no column {named!r}", nearest(named, features))
        if named and not fits(features[named]):
            raise BadDataError(f"{spec}: column {named!r} does not hold {role}s")
        if named:
            return named
        found = next((names for names in guesses if names), [])
        if len(found) > 1 and role not in found:
            listed = ", ".join(found)
            raise BadDataError(
                f"{spec}: several columns could be the {role}: {listed}", f"set {role}_column"
            )
        return role if role in found else "".join(found)

    def where(fits: Callable[[Any], bool], *names: str) -> list[str]:
        return [n for n in features if fits(features[n]) and (not names or n in names)]

    def is_feature(feature: Any) -> bool:
        return isinstance(feature, Image)

    def is_struct(feature: Any) -> bool:
        return isinstance(feature, Mapping) and "bytes" in feature

    def is_bytes(feature: Any) -> bool:
        return _dtype(feature) in ("binary", "large_binary")

    def is_image(feature: Any) -> bool:
        return is_feature(feature) or is_struct(feature) or is_bytes(feature)

    def is_class(feature: Any) -> bool:
        return isinstance(feature, ClassLabel)

    def is_label(feature: Any) -> bool:
        return _dtype(feature).startswith(("int", "uint", "bool")) or _is_text(feature)

    image = find(
        "image",
        config.image_column,
        is_image,
        [where(is_feature), where(is_struct), where(is_bytes)],
    )
    if not image:
        raise BadDataError(
            f"{spec} has no image column; its columns are {', '.join(features)}",
            "an image column holds encoded files: binary, or a struct with bytes",
        )
    label = find(
        "label", config.label_column, is_label, [where(is_class), where(is_label, "label")]
    )
    caption = find("caption", config.caption_column, _is_text, [where(_is_text, "caption", "text")])
    return ImageColumns(image, label, caption)


Rows = TypeVar("Rows", "Dataset", "IterableDataset")


def undecoded(rows: Rows, columns: ImageColumns) -> Rows:
    """`rows` with the columns in use alone, the image as it is stored."""
    from datasets import Image

    rows = rows.select_columns(columns.names())
    if isinstance(rows.features[columns.image], Image):
        rows = rows.cast_column(columns.image, Image(decode=False))
    return rows


def class_names(rows: "Dataset", label: str) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The names of the classes in column `label`, and the class of each value in it."""
    from datasets import ClassLabel

    if not label:
        return (), {}
    feature = rows.features[label]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names), {code: code for code in range(len(feature.names))}
    values = sorted(value for value in rows.unique(label) if value is not None)
    return tuple(map(str, values)), {value: code for code, value in enumerate(values)}


def text_columns(features: "Features") -> list[str]:
    """The names of the columns of strings."""
    return [name for name in features if _is_text(features[name])]


def _is_text(feature: Any) -> bool:
    return _dtype(feature) in ("string", "large_string")


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", ""))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _translated(error: BaseException, spec: str) -> GentoolError:
    """The failure at the root of `error`. Only the machine's own OSErrors carry an errno."""
    import datasets

    while error.__cause__:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno:
        return MachineError(
            f"cannot write the data cache {datasets.config.HF_DATASETS_CACHE}: {error.strerror}",
            "HF_DATASETS_CACHE names another folder",
        )
    return BadDataError(f"{spec} cannot be read: {_first_line(error)}")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines of `datasets` inside the block."""
    import datasets

    bars, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
