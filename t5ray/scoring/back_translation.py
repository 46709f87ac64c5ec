"""Back translation as a scoring job: texts into another language, and what came out back again.

Comes in: texts, the settings of two models, a folder. Goes out: text -> its back translation. Both ways are jobs like
any other, resumed by their ledger, in a folder named after all that decides their content: model, prefix, decoding and
texts. So the second search over the same rows translates nothing, and a finished job is the cache. Must not know what
the texts are for.

Source: Sennrich, Haddow and Birch 2016, "Improving Neural Machine Translation Models with Monolingual Data"; as
augmentation of other tasks: Yu et al. 2018, "QANet".
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from t5ray.config import BackTranslationConfig, DecodeConfig, PredictConfig, TaskConfig
from t5ray.scoring.ledger import write_atomically, writing
from t5ray.scoring.opening import ScoringModel, open_model
from t5ray.scoring.plan import FinishedJob, Job, prepare
from t5ray.scoring.writing import Extras, decode_results, json_text

FORMAT: Final = "jsonl"
TEXT = "text"
VERBATIM = TaskConfig(name="back_translation", inputs="{text}", targets="{text}", metrics=("exact_match",))
"""The one column is the encoder's text: the prefix is put before it here."""


def back_translate(
    texts: Sequence[str], config: BackTranslationConfig, cache: Path, run: Callable[[Job], object]
) -> dict[str, str]:
    """Translate texts and translate them back, as far as that is not in the cache.

    Args:
        texts: all different.
        cache: parent of the jobs' folders; on a cluster a share that every node sees.
        run: brings a scoring job to its end.
    Returns:
        Text -> its back translation, which may be the text itself; texts that a model failed on are missing.
    Raises:
        ConfigError, ModelError: a model is missing or broken.
        DataError: the cache cannot be written.
        ClusterError: Ray gave up on a job.
    """
    assert config.forward is not None, "the settings demand it where they ask for back translation"
    there = _translate(texts, config.forward, config.forward_prefix, config, cache, run)
    abroad = list(dict.fromkeys(there.values()))
    back = _translate(abroad, config.backward or config.forward, config.backward_prefix, config, cache, run)
    return {text: back[translation] for text, translation in there.items() if translation in back}


def _translate(
    texts: Sequence[str],
    model: str,
    prefix: str,
    config: BackTranslationConfig,
    cache: Path,
    run: Callable[[Job], object],
) -> dict[str, str]:
    """Return text -> its translation, without those that failed or came out empty."""
    if not texts:
        return {}
    settings = PredictConfig(
        model=model,
        input="",
        output="",
        format=FORMAT,
        precision=config.precision,
        decode=DecodeConfig(num_beams=config.num_beams, max_new_tokens=config.max_new_tokens, do_sample=False),
    )
    opened = open_model(settings, task=VERBATIM)
    lines = "".join(json_text({TEXT: prefix + text}) + "\n" for text in texts)
    folder = cache / "back_translation" / _key(opened, config, lines)
    rows, scored = folder / f"{TEXT}.{FORMAT}", folder / "scored"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not rows.exists():
            write_atomically(rows, lines.encode())
    job = prepare(settings.model_copy(update={"input": str(rows), "output": str(scored)}), opened)
    if not isinstance(job, FinishedJob):
        run(job)
    found = [
        prediction
        for part in sorted(scored.glob(f"part-*.{FORMAT}"))
        for prediction in decode_results(FORMAT, part.read_bytes(), Extras()).predictions
    ]
    return {text: translation for text, translation in zip(texts, found, strict=True) if translation}


def _key(model: ScoringModel, config: BackTranslationConfig, lines: str) -> str:
    parts = [model.fingerprint, model.decode, config.precision, lines]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
