"""Greedy decoding and its processors against transformers' generate, on every kind of model of the family.

Tie rule: of equal logits the first token wins, as in torch.argmax. How rows are batched changes float rounding, so near
ties may fall otherwise; the models' logits are spread so that none is near.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from t5ray.config import DecodeConfig
from t5ray.model.batching import runs_within
from t5ray.model.decoding import places as attention
from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.encoder import encode
from t5ray.model.decoding.greedy import _Run, generate
from t5ray.model.decoding.processors import Best, make_processor
from t5ray.model.decoding.vocabulary import Vocabulary
from t5ray.model.decoding.waiting import Waiting
from t5ray.model.decoding.weights import prepare
from tests.model.decoding.models import CAP, KINDS, make, padded, token_rows, until_end

PLACES = 3
"""Fewer than there are rows, so that rows take turns."""


@torch.inference_mode()
def own_tokens(model: Any, rows: list[list[int]], **settings: Any) -> list[list[int]]:
    weights = prepare(model)
    processor = make_processor(DecodeConfig(max_new_tokens=CAP, **settings), 1, torch.device("cpu"))
    choose = Best(processor) if processor else None
    places = len(rows) if choose else min(PLACES, len(rows))
    made = generate(
        weights,
        Vocabulary(weights),
        Waiting(encode(weights, rows)),
        Decoder(weights, places, len(rows[0]), CAP),
        num_rows=len(rows),
        max_new_tokens=CAP,
        choose=choose,
    )
    return [until_end(row) for row in made.tokens.tolist()]


def their_tokens(model: Any, rows: list[list[int]], **settings: Any) -> list[list[int]]:
    output = model.generate(**padded(rows), max_new_tokens=CAP, do_sample=False, **settings)[:, 1:].tolist()
    return [until_end(row) for row in output]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_equal_generate_in_the_same_batch_and_row_by_row(kind: str) -> None:
    model, rows = make(kind), token_rows()
    own = own_tokens(model, rows)
    assert own == their_tokens(model, rows)
    assert own == [their_tokens(model, [row])[0] for row in rows]
    assert own == [own_tokens(model, [row])[0] for row in rows]


@pytest.mark.parametrize("numbers", [1, 1024, 1600])
def test_tokens_do_not_depend_on_the_groups_of_attention(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make("t5-gated"), token_rows()
    sizes = list[list[int]]()

    def noted(lengths: list[int], budget: int) -> list[range]:
        found = list(runs_within(lengths, budget))
        sizes.append([len(run) for run in found])
        return found

    monkeypatch.setattr(attention, "GROUP_NUMBERS", numbers)  # of 32 by token
    monkeypatch.setattr(attention, "runs_within", noted)
    assert own_tokens(model, rows) == their_tokens(model, rows)
    assert max(map(len, sizes)) > 1
    assert numbers == 1 or max(max(found) for found in sizes) > 1


def test_few_texts_move_when_places_are_given_up() -> None:
    weights = prepare(make("t5"))
    run = _Run(weights, Waiting(encode(weights, token_rows())), Decoder(weights, 6, 60, CAP), 7, CAP)
    run.rows = torch.tensor([4, 7, 1, 7, 0, 2])  # 7 stands for nobody
    assert run._without_holes().tolist() == [0, 4, 2, 5]


def test_the_models_give_texts_of_many_lengths() -> None:
    lengths = {len(row) for kind in KINDS for row in own_tokens(make(kind), token_rows())}
    assert len(lengths) > 3
    assert {min(lengths) < CAP, CAP in lengths} == {True}


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 9},
        {"repetition_penalty": 0.7, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["t5-gated-untied", "umt5"])
def test_processors_equal_generate(kind: str, settings: dict[str, Any]) -> None:
    model, rows = make(kind), token_rows()
    own = own_tokens(model, rows, **settings)
    assert own == their_tokens(model, rows, **settings)
    assert own != own_tokens(model, rows)


def test_log_probabilities_equal_generates_own_scores() -> None:
    model, rows = make("t5"), token_rows()
    weights = prepare(model)
    with torch.inference_mode():
        made = generate(
            weights,
            Vocabulary(weights),
            Waiting(encode(weights, rows)),
            Decoder(weights, PLACES, len(rows[0]), CAP),
            num_rows=len(rows),
            max_new_tokens=CAP,
            scores=True,
        ).log_probabilities
    assert made is not None
    for row, value in zip(rows, made.tolist(), strict=True):
        output = model.generate(
            **padded([row]), max_new_tokens=CAP, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        steps = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        assert value == pytest.approx(steps.sum().item(), rel=1e-4)


def whole_numbers(*shape: int) -> torch.Tensor:
    """Small ones, whose products have the same sum in whatever order a machine adds them up."""
    return torch.randint(-3, 4, shape).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [7, 2048, 2049, 5000])
def test_the_best_token_of_a_large_vocabulary_is_the_highest_logit_and_of_equals_the_first(
    size: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(size)
    weights = prepare(make("t5"), dtype)
    object.__setattr__(weights, "head", whole_numbers(size, 32).to(dtype))
    weights.head[size // 2] = 3 * weights.head[0]
    weights.head[size // 2 + 1] = weights.head[size // 2]
    vocabulary = Vocabulary(weights)
    states = torch.cat((weights.head[:1], whole_numbers(9, 32).to(dtype), -weights.head[-1:]))
    logits = (states.double() @ weights.head.double().t()).to(dtype).float()
    assert vocabulary.best(states).tolist() == logits.argmax(dim=-1).tolist()
    assert vocabulary.best(states)[0] == size // 2
    close = partial(assert_close, rtol=0.01, atol=0.01) if dtype == torch.bfloat16 else assert_close
    close(vocabulary.logits(states), logits)
    found, log_sum = vocabulary.normalised(states)
    close(found - log_sum, logits.log_softmax(dim=-1))
    rows, tokens = torch.tensor([10, 0, 0]), torch.tensor([0, size - 1, size // 2])
    close(vocabulary.log_probabilities(states, rows, tokens), logits.log_softmax(dim=-1)[rows, tokens])
