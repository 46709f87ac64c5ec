"""What train and tune do between reading the data and the first run, where back translation may be asked for.

Comes in: what training prepared. Goes out: the same with the back translations of its training rows. Joins training and
scoring, which do not know each other.
"""

from dataclasses import replace
from pathlib import Path

from t5ray import terminal
from t5ray.cluster import Cluster
from t5ray.scoring.back_translation import back_translate
from t5ray.scoring.job import run
from t5ray.scoring.plan import Job
from t5ray.training.prepare import Prepared


def with_back_translations(prepared: Prepared, cluster: Cluster, cache: Path) -> Prepared:
    """Back-translate the training rows where a run may ask for it, or find that in the cache.

    Args:
        cache: beside the tokens that an earlier run left.
    Raises:
        T5RayError: a model is missing or broken, or the scoring job does not reach its end.
    """
    if not prepared.back_translates:
        return prepared
    assert prepared.texts is not None, "rows that may be back-translated may be augmented"
    parts = prepared.texts.parts()

    def score(job: Job) -> None:
        with terminal.progress("translating", job.spec.input.num_rows) as advance:
            run(job, cluster, advance)

    found = back_translate(parts, prepared.config.back_translation, cache, score)
    changed = sum(found.get(part, part) != part for part in parts)
    terminal.say(
        f"back-transl. {changed} of {len(parts)} training texts come back changed, from {cache}/back_translation"
    )
    return replace(prepared, texts=prepared.texts.with_translations(found))
