"""A tokenizer's folder: `gentool.json` says what it is, beside it lie the model's own files.

The hash is that of everything in the folder. It stands in gentool.json as well, so that damage is
noticed wherever the folder is, and in the header of the weights that were trained with it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gentool.checkpoint.atomic import create_folder, write_file
from gentool.errors import BadCheckpointError, NotFoundError
from gentool.tokenizers import SPECIALS

FORMAT_VERSION = 1  # also of the rules by which words are split and joined, which no file holds
ABOUT = "gentool.json"
FILES = {
    "words": "vocab.tsv",
    "unigram": "sentencepiece.model",
    "bpe": "sentencepiece.model",
    "char": "sentencepiece.model",
    "huggingface": "tokenizer.json",
    "vq": "vq.safetensors",
}
"""The model's own file, by kind."""

_MAX_ABOUT_BYTES = 2**20
_FOREIGN = "a run on one of Hugging Face begins with --set tokenizer.kind=huggingface"


@dataclass(frozen=True)
class Contents:
    """What a tokenizer's folder holds."""

    kind: str
    size: int
    specials: Mapping[str, int]  # name -> id
    options: Mapping[str, Any]  # that it was trained with
    data: bytes  # of the model's own file

    def _about(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "size": self.size,
            "specials": dict(self.specials),
            "options": dict(self.options),
            "files": {FILES[self.kind]: hashlib.sha256(self.data).hexdigest()},
        }

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self._about(), sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Make `folder`, by one rename."""
        create_folder(folder, self._fill)

    def _fill(self, folder: Path) -> None:
        about = json.dumps({**self._about(), "sha256": self.hash}, indent=2) + "\n"
        write_file(folder / ABOUT, about.encode())
        write_file(folder / FILES[self.kind], self.data)

    @classmethod
    def read(cls, folder: Path) -> "Contents":
        """What `write` wrote, verified. Raises NotFoundError or BadCheckpointError."""
        if not folder.is_dir():
            raise NotFoundError(
                f"no tokenizer folder {folder}", f"gentool tokenizer train makes one; {_FOREIGN}"
            )
        if not (folder / ABOUT).is_file() and any(folder.iterdir()):
            raise BadCheckpointError(
                f"{folder} is not a tokenizer of gentool: it has no {ABOUT}", _FOREIGN
            )
        try:
            about = json.loads(_bytes(folder / ABOUT))
            version = about["format_version"]
            if version != FORMAT_VERSION:
                raise ValueError(f"format {version}; this gentool reads format {FORMAT_VERSION}")
            kind, size, specials = about["kind"], about["size"], about["specials"]
            if kind not in FILES:
                raise ValueError(f"unknown kind {kind!r}")
            names = SPECIALS if kind != "vq" else ()
            ids = [specials[name] for name in names]
            if type(size) is not int or not all(type(id) is int and 0 <= id < size for id in ids):
                raise ValueError("ids of special tokens are not in its vocabulary")
            if len({*ids}) < len(names) or len(specials) != len(names):
                raise ValueError(f"special tokens are not {', '.join(names)}, each with its id")
            data = _bytes(folder / FILES[kind])
            contents = cls(kind, size, specials, dict(about["options"]), data)
            expected, written = contents._about()["files"], about["files"]
            for name in expected:
                if written[name] != expected[name]:
                    raise ValueError(f"{name} was changed or damaged (SHA-256 differs)")
            if about["sha256"] != contents.hash:
                raise ValueError(f"{ABOUT} was changed or damaged (SHA-256 differs)")
        except KeyError as error:
            raise BadCheckpointError(f"{folder / ABOUT} has no {error}") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BadCheckpointError(f"{folder} cannot be read: {error}") from None
        return contents


class Stored:
    """What the kinds of tokenizers share: folder, hash and special tokens."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.kind, self.size = contents.kind, contents.size
        self.specials = contents.specials
        self._specials = {id: name for name, id in contents.specials.items()}

    @property
    def hash(self) -> str:
        """SHA-256 of its folder."""
        return self.contents.hash

    def special(self, name: str) -> int:
        """The id of the special token `name`, one of SPECIALS."""
        return self.contents.specials[name]

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into the empty or absent `folder`."""
        self.contents.write(folder)

    def token(self, id: int) -> str:
        """One token as it is shown to people, `<pad>` for a special one."""
        name = self._specials.get(id)
        return f"<{name}>" if name else self._token(id)

    def _token(self, id: int) -> str:
        raise NotImplementedError


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise NotFoundError(f"no file {path}", "restore it from a copy")
    # The model's own file may be as large as models are: what was written can be read.
    if path.name == ABOUT and path.stat().st_size > _MAX_ABOUT_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_ABOUT_BYTES} bytes")
    return path.read_bytes()
