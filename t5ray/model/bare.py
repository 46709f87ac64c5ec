"""A model that comes without weights, as the embedded demo's does, and gets random ones."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM

from t5ray.model.loading import load_config, load_tokenizer
from t5ray.model.weight_files import WEIGHT_FILES


def is_bare(source: str) -> bool:
    """Say whether a directory holds a T5's config and tokenizer but no weights."""
    folder = Path(source)
    return (folder / "config.json").is_file() and not any((folder / name).exists() for name in WEIGHT_FILES)


def initialise(bare: str | Path, cache: Path, *, seed: int) -> Path:
    """Give a bare model seeded random weights, once, and return the directory that loads.

    Used by the embedded demo, whose package carries no weights.

    Args:
        bare: directory with config.json and tokenizer files.
        cache: parent of the directory to make; a directory made before with the same seed is returned as it is.
    """
    config_text = (Path(bare) / "config.json").read_text(encoding="utf-8")
    digest = hashlib.sha256(f"{seed}\n{torch.__version__}\n{config_text}".encode()).hexdigest()[:12]
    target = cache / f"random-t5-{digest}"
    if not (target / WEIGHT_FILES[0]).is_file():
        config, tokenizer = load_config(str(bare)), load_tokenizer(str(bare))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForSeq2SeqLM.from_config(config)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".random-t5-", dir=cache) as temporary:
            tokenizer.save_pretrained(temporary)
            model.save_pretrained(temporary)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(temporary, f"{temporary}.whole")
        Path(f"{temporary}.whole").replace(target)
    return target
