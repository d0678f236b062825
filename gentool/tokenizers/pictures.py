"""The tokenizers of a model that makes pictures of tokens: of its pictures, and of its captions."""

import hashlib
import os
import shutil
from pathlib import Path

from gentool.checkpoint.atomic import sync
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
        """Write all that `read` needs into the empty or absent `folder`."""
        folder = folder.resolve()
        beside = folder.with_name(f".{folder.name}.pair")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            self.image.save(beside / IMAGE)
            if self.text:
                self.text.save(beside / TEXT)
            sync(beside)
            os.replace(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        sync(folder.parent)

    @classmethod
    def read(cls, folder: Path) -> "PictureTokenizer":
        """What `save` wrote. Raises NotFoundError or BadCheckpointError."""
        image = load(folder / IMAGE)
        if not isinstance(image, VQTokenizer):
            raise BadCheckpointError(f"{folder / IMAGE} is no tokenizer of pictures")
        return cls(image, load(folder / TEXT) if (folder / TEXT).is_dir() else None)
