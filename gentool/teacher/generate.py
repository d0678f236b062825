"""Teachers: encoder-decoders of transformers that translate by beam search.

A teacher is a run of `gentool train teacher`, or any seq2seq checkpoint in the layout of the Hub.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gentool.checkpoint.config import is_checkpoint, read_config, run_of
from gentool.checkpoint.weights import tensors_hash
from gentool.data.config import PairData
from gentool.data.holdout import elsewhere
from gentool.data.rows import batches, padded
from gentool.device import pick_device, use_bf16
from gentool.errors import BadCheckpointError, GentoolError
from gentool.resources import checkpoint_path
from gentool.settings import Tree, build, to_tree
from gentool.tokenizers.huggingface import translated

HELPER = "teacher"
LONGEST = 512  # tokens, where a model of the Hub does not say how many it reads


@dataclass
class Teacher:
    """An autoregressive encoder-decoder, ready to translate."""

    name: str  # of its folder, or on the Hub
    hash: str  # SHA-256 of its weights
    model: Any  # a seq2seq model of transformers
    encode: Callable[[str], list[int]]  # a source, its end included
    decode: Callable[[list[int]], str]
    pad: int  # that sources are padded with
    longest: int  # tokens of a source or a target at the most
    bf16: bool = False
    held_out: str = "unknown"  # of its data, where gentool trained it: `some` of them, or `none`

    @torch.no_grad()
    def translate(
        self,
        lines: Sequence[str],
        beam: int,
        batch_tokens: int = 4096,
        poll: Callable[[], None] = lambda: None,
    ) -> list[str | None]:
        """The translation of each line, by beam search or, with a beam of 1, greedily; None for one
        that is too long for the model.

        batch_tokens: the most in a batch, hypotheses and padding of the sources included. poll: is
        called after each batch.
        """
        rows = [self.encode(line) for line in lines]
        fits = [number for number, row in enumerate(rows) if len(row) <= self.longest]
        made: list[str | None] = [None] * len(lines)
        device = next(self.model.parameters()).device
        for batch in batches([len(rows[number]) for number in fits], batch_tokens // beam):
            numbers = [fits[place] for place in batch]
            ids = padded([rows[number] for number in numbers], self.pad)
            n = torch.tensor([len(rows[number]) for number in numbers])
            is_source = torch.arange(ids.shape[1]) < n[:, None]
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                found = self.model.generate(
                    input_ids=ids.to(device),
                    attention_mask=is_source.long().to(device),
                    num_beams=beam,
                    do_sample=False,
                    max_new_tokens=self.longest - 1,  # an end fits where it found none
                )
            for number, row in zip(numbers, found.tolist(), strict=True):
                made[number] = " ".join(self.decode(row).split())  # a line stays a line
            poll()
        return made


def open_teacher(name: str, device: str, precision: str) -> Teacher:
    """The teacher in the folder `name`, or of that name on the Hub. None of its code is run.

    Raises NotFoundError, MachineError (no network), UsageError (device, precision) or
    BadCheckpointError, also for a model that is no encoder-decoder.
    """
    chosen = pick_device(device)
    folder = checkpoint_path(name)
    teacher = _trained(folder) if is_checkpoint(folder) else _pretrained(name)
    teacher.model.to(chosen)
    teacher.bf16 = use_bf16(precision, chosen)
    return teacher


def translated_data(name: str, specs: tuple[str, ...]) -> Tree:
    """The data section of what a teacher is to translate: `specs`, or else what it was trained on,
    if gentool did that. Raises BadCheckpointError."""
    folder = checkpoint_path(name)
    theirs: Tree = read_config(folder).config["data"] if is_checkpoint(folder) else {}
    return to_tree(elsewhere(build(PairData, theirs), specs, "train")) if specs else theirs


def _trained(folder: Path) -> Teacher:
    from gentool.checkpoint.load import load_checkpoint

    loaded = load_checkpoint(folder, HELPER)
    state = loaded.network.state_dict()
    teacher: Teacher = loaded.backend.teacher(
        loaded.network, run_of(folder).name, tensors_hash(state)
    )
    teacher.held_out = "none" if "validation" in loaded.run_config.data else "some"
    return teacher


def _pretrained(name: str) -> Teacher:
    import huggingface_hub
    import transformers

    huggingface_hub.utils.logging.set_verbosity_error()  # every attempt to reach the Hub is told
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # it warns of what is chosen here on purpose
    local = Path(name).is_dir()
    given = {"trust_remote_code": False, "local_files_only": local}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **given)
        if not config.is_encoder_decoder:
            raise BadCheckpointError(
                f"{name} is a {config.model_type}, not seq2seq: it has no encoder and decoder",
                f"a run of `gentool train {HELPER}`, or a seq2seq checkpoint of transformers",
            )
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            name, use_safetensors=True, **given
        )
    except GentoolError:
        raise
    except Exception as error:  # of transformers, huggingface_hub, safetensors and the network
        raise translated(error, name, "seq2seq checkpoint") from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **given)
    except Exception as error:
        raise translated(error, name, "tokenizer") from None
    if local and not _has_vocabulary(Path(name), tokenizer):  # transformers makes an empty one
        raise BadCheckpointError(
            f"{name} has no tokenizer beside the model", "tokenizer.save_pretrained(DIR) writes it"
        )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise BadCheckpointError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens, its model knows {rows}",
            "they are not of one training",
        )
    longest = getattr(config, "max_position_embeddings", None) or LONGEST
    return Teacher(
        name,
        tensors_hash(model.state_dict()),
        model.float().eval(),  # as it is: autocast casts weights without gradients each time anew
        lambda line: list(tokenizer(line).input_ids),
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        tokenizer.pad_token_id or 0,
        longest - 1,  # a target begins with a token of its own
    )


def _has_vocabulary(folder: Path, tokenizer: Any) -> bool:
    """Whether a file in `folder` holds the tokens."""
    names = {"tokenizer.json", *tokenizer.vocab_files_names.values()} - {"tokenizer_config.json"}
    return any((folder / name).is_file() for name in names)
