"""Tiny text encoders of transformers, made on the spot: CLIP's, T5's and BERT's architectures."""

from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from gentool.data.scenes.language import WORDS
from gentool.rng import torch_seed

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
KINDS = ("clip", "t5", "bert")
LISTED = sorted({word for words in WORDS["en"].values() for name in words for word in name.split()})


def text_encoder(kind: str, folder: Path, seed: int = 0) -> Path:
    """`folder`, holding an encoder of `kind`, one of KINDS, with random weights, and its
    tokenizer. T5 has no token that begins a text, CLIP pads with the one that ends it."""
    names, tokens = {
        "clip": ("unk bos eos pad", "<end> <start> <end> <end>"),
        "t5": ("unk eos pad", "<unk> </s> <pad>"),
        "bert": ("unk cls sep pad", "[UNK] [CLS] [SEP] [PAD]"),
    }[kind]
    named = zip(names.split(), tokens.split(), strict=True)
    specials = {f"{name}_token": token for name, token in named}
    vocabulary = {
        word: id for id, word in enumerate([*dict.fromkeys(specials.values()), "a", *LISTED])
    }
    model = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=specials["unk_token"]))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = {"clip": "<start> $A <end>", "t5": "$A </s>", "bert": "[CLS] $A [SEP]"}[kind]
    used = [(token, vocabulary[token]) for token in around.split() if token != "$A"]
    model.post_processor = processors.TemplateProcessing(single=around, special_tokens=used)
    PreTrainedTokenizerFast(tokenizer_object=model, **specials).save_pretrained(folder)
    shape = SHAPE | {"vocab_size": len(vocabulary)}
    with torch_seed("encoder", seed):
        made = {
            "clip": lambda: CLIPTextModel(CLIPTextConfig(**shape, bos_token_id=1, eos_token_id=0)),
            "bert": lambda: BertModel(BertConfig(**shape)),
            "t5": lambda: T5EncoderModel(
                T5Config(
                    vocab_size=len(vocabulary),
                    d_model=16,
                    d_kv=8,
                    d_ff=16,
                    num_layers=1,
                    num_heads=2,
                )
            ),
        }[kind]()
    made.save_pretrained(folder)
    return folder
