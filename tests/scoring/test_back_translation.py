"""Back translation: two scoring jobs over one text each, done once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from t5ray.config import BackTranslationConfig
from t5ray.model.prediction import Prediction
from t5ray.scoring.back_translation import back_translate
from t5ray.scoring.ledger import Entry
from t5ray.scoring.plan import Job
from t5ray.scoring.scorer import Scorer
from tests.scoring.doubles import ShoutingEngine
from tests.tiny import make_tiny_t5

TEXTS = ["one small dog", "two\nlines", "a bomb"]


class Translator(ShoutingEngine):
    """Turns the words around; a text of its own prefix only comes out empty."""

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        super().score(inputs, scores=scores)
        return [Prediction(" ".join(reversed(text.partition(": ")[2].split())), None, hit_cap=False) for text in inputs]


class LocalRun:
    """Brings jobs to their end in this process, and counts what the engine saw."""

    def __init__(self) -> None:
        self.inputs: list[list[str]] = []
        self.models: list[str] = []

    def __call__(self, job: Job) -> None:
        engine = Translator()
        self.models.append(job.config.model)
        for outcome in Scorer(job.spec, lambda: engine).outcomes(job.pending):
            outcome.raise_failure()
        self.inputs.append(sorted({text for batch in engine.batches for text in batch}))
        entries = job.spec.ledger.finished()
        total = sum(entries.values(), Entry())
        stamps = [[file.source.name, file.stamp] for file in job.spec.input.files]
        job.spec.ledger.write_job(
            {
                "state": "done",
                "rows_in": total.rows,
                "rows_out": total.rows,
                "rows_with_error": total.errors,
                "num_shards": len(entries),
                "seconds": 0.0,
                "rows_per_s": 0.0,
                "padding_share": 0.0,
                "capped_share": 0.0,
                "fingerprint": job.fingerprint,
                "stamps": stamps,
                "config": job.config.model_dump(mode="json"),
            }
        )


@pytest.fixture
def config(tiny_t5: Path) -> BackTranslationConfig:
    return BackTranslationConfig(forward=str(tiny_t5), forward_prefix="en to de: ", backward_prefix="de to en: ")


def test_texts_come_back_through_both_prefixes(config: BackTranslationConfig, tmp_path: Path) -> None:
    run = LocalRun()
    found = back_translate(TEXTS, config, tmp_path, run)
    assert found == {"one small dog": "one small dog", "two\nlines": "two lines"}  # the failed text is missing
    assert run.inputs == [
        ["en to de: a bomb", "en to de: one small dog", "en to de: two\nlines"],
        ["de to en: dog small one", "de to en: lines two"],
    ]


def test_each_way_may_have_a_model_of_its_own(config: BackTranslationConfig, tmp_path: Path) -> None:
    backward = str(make_tiny_t5(tmp_path / "backward", seed=1))
    run = LocalRun()
    back_translate(TEXTS[:1], config.model_copy(update={"backward": backward}), tmp_path, run)
    assert run.models == [config.forward, backward]


def test_nothing_is_translated_twice(config: BackTranslationConfig, tmp_path: Path) -> None:
    first = back_translate(TEXTS[:2], config, tmp_path, LocalRun())
    run = LocalRun()
    assert back_translate(TEXTS[:2], config, tmp_path, run) == first
    assert run.inputs == []
    other = config.model_copy(update={"backward_prefix": "back: "})
    back_translate(TEXTS[:2], other, tmp_path, run)
    assert run.inputs == [["back: dog small one", "back: lines two"]]  # the way there is known
    back_translate(TEXTS[:1], config, tmp_path, run)
    assert len(run.inputs) == 3  # other texts, another job


def test_no_texts_need_no_model(tmp_path: Path) -> None:
    assert back_translate([], BackTranslationConfig(forward="nowhere"), tmp_path, LocalRun()) == {}
