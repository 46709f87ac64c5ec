"""The label tree against scoring every label in full with transformers."""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.encoder import encode
from t5ray.model.decoding.labels import NEGLIGIBLE, build, score
from t5ray.model.decoding.vocabulary import Vocabulary
from t5ray.model.decoding.weights import prepare
from tests.model.decoding.models import GROUPINGS, KINDS, make, padded, regroup, token_rows
from tests.tiny import character_tokenizer

LABELS = ["art", "arts", "article", "b", "bee", "science", "sport", "sports", "x"]


def label_tokens() -> list[list[int]]:
    return list(character_tokenizer()(LABELS).input_ids)


@torch.inference_mode()
def own(
    model: Any, rows: list[list[int]], margin: float, labels: Sequence[list[int]] | None = None, **settings: Any
) -> torch.Tensor:
    weights = prepare(model)
    tree = build(labels or label_tokens(), weights.device)
    decoder = Decoder.over(weights, encode(weights, rows), tree.depth)
    return score(weights, Vocabulary(weights), decoder, tree, margin=margin, **settings)


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Of scores up to a number for each row, the differences to its first one count."""
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], rtol=tolerance, atol=tolerance)


@torch.no_grad()
def exhaustive(model: Any, rows: list[list[int]], labels: Sequence[list[int]]) -> torch.Tensor:
    """Return the sum of log-probabilities of each label for each row, by one forward pass per pair."""
    found = torch.empty(len(rows), len(labels))
    for i, row in enumerate(rows):
        for j, label in enumerate(labels):
            target = torch.tensor([label])
            logp = model(**padded([row]), labels=target).logits.log_softmax(dim=-1)
            found[i, j] = logp.gather(2, target[:, :, None]).sum()
    return found


def test_tree_example() -> None:
    tree = build([[5, 6, 1], [5, 1]], torch.device("cpu"))
    assert tree.starts.tolist() == [0, 1, 3, 4]
    assert tree.tokens.tolist() == [5, 1, 6, 1]
    assert tree.children.tolist() == [1, -1, 2, -1]
    assert tree.first.tolist() == [0, 0, 1, 1]
    assert tree.counts.tolist() == [2, 1, 1, 1]
    assert tree.order.tolist() == [1, 0]
    assert tree.depth == 3


@pytest.mark.parametrize("most_tokens", [1, 150])
def test_branches_keep_to_the_tokens_that_are_allowed(most_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make("t5-untied"), token_rows()
    selected, alive = list[int](), weakref.WeakSet[torch.Tensor]()
    most_alive = 0
    select = Decoder.select

    def noted(self: Decoder, *args: Any) -> Decoder:
        nonlocal most_alive
        chosen = select(self, *args)
        alive.add(chosen._states)
        selected.append(chosen.places)
        most_alive = max(most_alive, sum(states.numel() for states in alive))
        return chosen

    monkeypatch.setattr(Decoder, "select", noted)
    found = own(model, rows, math.inf, most_tokens=most_tokens)
    assert_same(found, exhaustive(model, rows, label_tokens()))
    assert max(selected) == max(1, most_tokens // (len(rows[0]) + max(map(len, label_tokens()))))
    assert most_alive <= max(most_tokens, len(rows[0])) * 32


ANSWERS = st.lists(st.lists(st.integers(2, 5), max_size=4).map(lambda text: [*text, 1]), min_size=1, unique_by=tuple)


@given(ANSWERS)
def test_each_edge_leads_to_the_answers_that_begin_as_it_does(answers: list[list[int]]) -> None:
    tree, seen = build(answers, torch.device("cpu")), 0
    reached: list[tuple[int, list[int]]] = [(0, [])]
    for node, before in reached:
        for edge in range(int(tree.starts[node]), int(tree.starts[node + 1])):
            path = [*before, int(tree.tokens[edge])]
            first, child = int(tree.first[edge]), int(tree.children[edge])
            below = tree.order[first : first + int(tree.counts[edge])].tolist()
            assert sorted(below) == [i for i, answer in enumerate(answers) if answer[: len(path)] == path]
            assert (child < 0) == (path in answers)
            reached += [(child, path)] if child >= 0 else []
            seen += 1
    assert seen == len({tuple(answer[:end]) for answer in answers for end in range(1, len(answer) + 1)})


def test_five_thousand_answers_take_megabytes() -> None:
    answers = [[10 + number % 1500, *(3 + (number >> bit & 1) for bit in range(13)), 1] for number in range(5000)]
    tree = build(answers, torch.device("cpu"))
    held = [tensor for tensor in vars(tree).values() if isinstance(tensor, torch.Tensor)]
    assert sum(tensor.numel() * tensor.element_size() for tensor in held) < 3_000_000
    assert sorted(tree.order.tolist()) == list(range(5000))


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_label_has_its_full_score(kind: str, grouping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = regroup(monkeypatch, grouping)
    model, rows = make(kind), token_rows()
    assert_same(own(model, rows, math.inf), exhaustive(model, rows, label_tokens()))
    assert bool(sum(pairs)) == (grouping == "pairs")


def test_answers_may_be_longer_than_python_goes_down_and_keep_no_state_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make("t5-untied"), token_rows()[:2]
    long = [[*[5, 6] * 600, 1], [*[5, 6] * 600, 7, 1]]
    alive, most_alive, select = weakref.WeakSet[Decoder](), 0, Decoder.select

    def noted(self: Decoder, *args: Any) -> Decoder:
        nonlocal most_alive
        alive.add(chosen := select(self, *args))
        most_alive = max(most_alive, len(alive))
        return chosen

    monkeypatch.setattr(Decoder, "select", noted)
    found = own(model, rows, math.inf, long)
    assert_same(found, exhaustive(model, rows, long), 1e-3)
    assert most_alive == 2  # one and the next


@pytest.mark.parametrize("seed", range(5))
def test_giving_up_branches_changes_no_winner_and_no_probability_that_counts(seed: int) -> None:
    model, rows = make("t5-untied", seed=seed), token_rows()
    with torch.no_grad():
        model.lm_head.weight.mul_(4)  # sure of itself, so that branches are given up
    full = exhaustive(model, rows, label_tokens())
    winners = full.argmax(dim=1).tolist()
    assert own(model, rows, 0.0).argmax(dim=1).tolist() == winners
    close = own(model, rows, NEGLIGIBLE)
    assert close.argmax(dim=1).tolist() == winners
    torch.testing.assert_close(close.softmax(dim=1), full.softmax(dim=1), rtol=1e-3, atol=len(LABELS) * 1e-6)
    bounds, best = own(model, rows, 0.0), full.argmax(dim=1, keepdim=True)
    assert (bounds - bounds.gather(1, best) >= full - full.gather(1, best) - 1e-3).all()
