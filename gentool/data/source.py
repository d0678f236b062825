"""What a data set is to the rest of gentool: examples by index, and a fingerprint."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Example:
    """One record of a data set."""

    key: str  # names the record in messages: "cats/12.png", "train.parquet row 17"
    image: np.ndarray  # uint8 [H, W, C], C = 1 (grey) or 3 (RGB)
    caption: str = ""
    label: int | None = None  # index into Source.labels


class Source(Protocol):
    """Examples by index. The same index always gives the same example."""

    size: int | None  # None: endless
    labels: tuple[str, ...]  # class names; empty where there are none
    fingerprint: str  # changes when the data does

    def __getitem__(self, index: int) -> Example:
        """Example `index`. Raises BadDataError, naming the record, if it cannot be read."""
        ...
