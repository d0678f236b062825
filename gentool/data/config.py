"""The [data] section of image recipes. Imports nothing heavy: help text is made from it."""

from dataclasses import dataclass

from gentool.errors import UsageError
from gentool.settings import setting


@dataclass
class ImageData:
    """Which images, and how they are brought to one size. Raises UsageError."""

    spec: tuple[str, ...] = setting(
        ("scenes",),
        "scenes; folders of images, parquet files, tar shards (quoted patterns); or hf:NAME",
    )
    split: str = setting("train", "part of scenes", choices=("train", "test", "test-novel"))
    image_size: int = setting(32, "height and width the model sees, in pixels", low=1)
    channels: int = setting(3, "1 (grey) or 3 (RGB)", low=1, high=3)
    flip: bool = setting(False, "mirror images left to right with probability 1/2")
    crop: str = setting(
        "center", "where the square is cut from an oblong image", choices=("center", "random")
    )
    image_column: str = setting(
        "", "column of the images, in tars their extension; empty: found by its type"
    )
    label_column: str = setting("", "column of the class; empty: class labels, or `label`")
    caption_column: str = setting(
        "", "column of the caption, in tars a field of .json; empty: `caption` or `text`, .txt"
    )
    on_error: str = setting(
        "stop", "what an unreadable image does; skipped ones are counted", choices=("stop", "skip")
    )
    workers: int = setting(2, "threads that decode images", low=1, fixed=False)

    def __post_init__(self) -> None:
        if self.channels == 2:
            raise UsageError("data.channels is 1 (grey) or 3 (RGB), got 2")
        if not all(self.spec) or not self.spec:
            raise UsageError("data.spec is empty", "give scenes, a folder, files or hf:NAME")
        if self.split != "train" and self.spec != ("scenes",):
            raise UsageError(
                f"data.split = {self.split!r} is for scenes alone, data.spec is {list(self.spec)}",
                "give the files of that split as the spec",
            )
