"""The tokenizers of a model that makes pictures of tokens: of its pictures, and of its captions."""

import hashlib
from pathlib import Path

from gentool.checkpoint.atomic import create_folder
from gentool.errors import BadCheckpointError
from gentool.tokenizers import Tokenizer, load
from gentool.tokenizers.vq.tokenizer import VQTokenizer

IMAGE, TEXT = "image", "text"  # sub-folders


class PictureTokenizer:
    """An image tokenizer and, where the model reads captions, that of text: one folder, one hash.

    kind and size are the image tokenizer's.
    """

    kind = "vq"

    def __init__(self, image: VQTokenizer, text: Tokenizer | None = None) -> None:
        self.image, self.text = image, text
        self.size = image.size

    @property
    def hash(self) -> str:
        """SHA-256 of both."""
        hashes = [self.image.hash, *([self.text.hash] if self.text else [])]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Make `folder`, with all that `read` needs, by one rename."""
        create_folder(folder, self._fill)

    def _fill(self, folder: Path) -> None:
        self.image.save(folder / IMAGE)
        if self.text:
            self.text.save(folder / TEXT)

    @classmethod
    def read(cls, folder: Path) -> "PictureTokenizer":
        """What `save` wrote. Raises NotFoundError or BadCheckpointError."""
        image = load(folder / IMAGE)
        if not isinstance(image, VQTokenizer):
            raise BadCheckpointError(f"{folder / IMAGE} is no tokenizer of pictures")
        return cls(image, load(folder / TEXT) if (folder / TEXT).is_dir() else None)
