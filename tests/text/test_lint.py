from collections.abc import Iterable
from typing import Any

import pytest

from t5ray.data.rows import Example
from t5ray.text.lint import TOKENIZED_ROWS, Finding, lint_task
from t5ray.text.tasks import BUILT_IN
from tests.tiny import character_tokenizer

CLASSIFY = BUILT_IN["classify"]


class Squeezing:
    """Joins runs of white space, as SentencePiece does, and knows every character; ids are code points, 1 is EOS."""

    def __call__(self, text: list[str], **options: Any) -> Any:
        self.input_ids = [[*map(ord, " ".join(t.split())), 1] for t in text]
        self.seen = getattr(self, "seen", 0) + len(text)
        return self

    def batch_decode(self, sequences: Iterable[list[int]], **options: Any) -> list[str]:
        assert options["skip_special_tokens"], "as predictions are decoded"
        return ["".join(map(chr, ids[:-1])) for ids in sequences]


def examples(*rows: tuple[str, str]) -> list[Example]:
    return [Example(f"classify: {text}", (target,), f"rows.csv:{n}") for n, (text, target) in enumerate(rows, start=2)]


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_clean_text_gives_no_finding() -> None:
    rows = examples(("a small dog", "animal"), ("a big dog", "animal"))
    assert lint_task(CLASSIFY, rows, character_tokenizer()) == []


def test_no_examples_give_no_finding() -> None:
    assert lint_task(CLASSIFY, [], character_tokenizer()) == []


def test_doubled_prefix_is_an_error_with_places() -> None:
    rows = examples(("classify: a", "x"), ("b", "x"), ("classify: c", "x"), ("classify:d", "x"), ("classify: e", "x"))
    finding = only(lint_task(CLASSIFY, rows, character_tokenizer()))
    assert finding.severity == "error"
    assert "must not start with the task's prefix 'classify: '" in finding.message
    assert "in 4 of 5 rows (80.0%: rows.csv:2, rows.csv:4, rows.csv:5, …)" in finding.message


def test_labels_that_are_the_same_tokens_are_an_error() -> None:
    rows = examples(("a", "big  dog"), ("b", "big dog"), ("c", "cat"))
    task = CLASSIFY.model_copy(update={"labels": ("big  dog", "big dog", "cat")})
    findings = lint_task(task, rows, Squeezing())
    assert [finding.severity for finding in findings] == ["error", "warning"]
    assert "of 3 labels 2 are not: 'big  dog' and 'big dog' are the same" in findings[0].message
    apart = task.model_copy(update={"labels": ("big dog", "cat")})
    assert lint_task(apart, rows[1:], Squeezing()) == []


def test_targets_that_become_unknown_pieces_are_counted() -> None:
    rows = examples(("a", "x"), ("b", "{x}"), ("c", "x<y"), ("d", "plain"))
    finding = only(lint_task(CLASSIFY, rows, character_tokenizer()))
    assert finding.severity == "warning"
    assert "a target must come back unchanged from the tokenizer" in finding.message
    assert "in 2 of 4 rows (50.0%: rows.csv:3, rows.csv:4) it loses characters: '{', '}', '<'" in finding.message


@pytest.mark.parametrize(("target", "lost"), [("two\nlines", r"'\n'"), ("two  spaces", "' '"), ("tab\tbed", r"'\t'")])
def test_white_space_that_the_tokenizer_folds_is_lost_from_targets(target: str, lost: str) -> None:
    finding = only(lint_task(CLASSIFY, examples(("a", target)), Squeezing()))
    assert f"it loses characters: {lost}" in finding.message


def test_target_that_comes_back_otherwise_changed_is_counted() -> None:
    class Adding(Squeezing):
        def batch_decode(self, sequences: Iterable[list[int]], **options: Any) -> list[str]:
            return [text.replace("'", " '") for text in super().batch_decode(sequences, **options)]

    finding = only(lint_task(CLASSIFY, examples(("a", "don't")), Adding()))
    assert "in 1 of 1 rows (100.0%: rows.csv:2) it changes." in finding.message


def test_inputs_that_lose_characters_are_counted() -> None:
    rows = examples(("f(x) {", "x"), ("line\nbreak", "x"), ("ok", "x"))
    finding = only(lint_task(CLASSIFY, rows, character_tokenizer()))
    assert "an input should come back whole" in finding.message
    assert "in 2 of 3 rows (66.7%: rows.csv:2, rows.csv:3)" in finding.message
    for lost in ("'('", "')'", "'{'", r"'\n'"):
        assert lost in finding.message


def test_folded_spaces_and_unicode_variants_of_inputs_are_let_through() -> None:
    assert lint_task(CLASSIFY, examples(("two  spaces", "x")), Squeezing()) == []
    assert lint_task(CLASSIFY, examples(("ﬁne… ①", "x")), character_tokenizer()) == []  # NFKC: fine... 1


def test_equal_inputs_with_different_targets_are_counted() -> None:
    rows = examples(("a", "x"), ("b", "x"), ("a", "y"), ("c", "x"), ("c", "x"))
    finding = only(lint_task(CLASSIFY, rows, character_tokenizer()))
    assert finding.severity == "warning"
    assert "in 2 of 5 rows (40.0%: rows.csv:2, rows.csv:4)" in finding.message
    assert "for 1 different inputs such as 'classify: a' -> 'x' and 'y'" in finding.message


def test_targets_that_rouge_cannot_see_are_counted() -> None:
    rows = [Example("summarize: x", ("кошка",), "a:1"), Example("summarize: y", ("cat",), "a:2")]
    finding = only(lint_task(BUILT_IN["summarize"], rows, Squeezing()))
    assert "ROUGE sees only the letters a-z and digits, but in 1 of 2 rows (50.0%: a:1)" in finding.message
    assert lint_task(CLASSIFY, rows, Squeezing()) == []


def test_errors_come_first() -> None:
    rows = examples(("a", "{"), ("classify: b", "x"))
    assert [f.severity for f in lint_task(CLASSIFY, rows, character_tokenizer())] == ["error", "warning"]


def test_tokenizer_sees_a_bounded_sample_of_all_rows() -> None:
    tokenizer = Squeezing()
    rows = examples(*((f"text {n}", "x" if n < 9_000 else "x\ny") for n in range(10_000)))
    finding = only(lint_task(CLASSIFY, rows, tokenizer))
    assert tokenizer.seen <= 2 * TOKENIZED_ROWS, "inputs and targets"
    assert "of 2000 rows (10.0%" in finding.message
