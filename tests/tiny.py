"""Tiny T5 models and texts that tests share: made in milliseconds, small enough to train on a laptop's core."""

import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

CHARACTERS = string.ascii_letters + string.digits + " .,:;-!?'/"


def character_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one piece per character and an EOS at the end."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{c: i for i, c in enumerate(CHARACTERS, start=3)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def tiny_config(*, gated: bool = False, tied: bool = True, d_model: int = 32) -> T5Config:
    """A T5 of a few ten thousand parameters."""
    return T5Config(
        vocab_size=len(CHARACTERS) + 3,
        d_model=d_model,
        d_kv=8,
        d_ff=2 * d_model,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        dropout_rate=0.1,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )


def make_tiny_t5(folder: Path, *, gated: bool = False, tied: bool = True, seed: int = 0) -> Path:
    """Write a tiny T5 with seeded random weights and return its folder."""
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(tiny_config(gated=gated, tied=tied))
    with torch.no_grad():  # spread the logits, so that greedy decoding has no near ties
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder
