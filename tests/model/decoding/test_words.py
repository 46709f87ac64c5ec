"""The head in bf16, word by word: maxima by bit patterns, sums of exponentials by slices."""

import pytest
import torch

from t5ray.model.decoding import words
from t5ray.model.decoding.words import Words, maxima

TOKENS = 5


def numbers(kind: str) -> torch.Tensor:
    """Return bf16 [6, 40, 3] with zeros, infinities and ties in it."""
    drawn = 5 * torch.randn(6, 40, 3, generator=torch.Generator().manual_seed(1))
    made = {"mixed": drawn, "negative": -drawn.abs() - 0.5, "positive": drawn.abs(), "small": drawn * 1e-39}[kind]
    made = made.bfloat16()
    made[0, :7], made[1, 3], made[2, :, 1] = -torch.inf, 0.0, made[2, 0, 1].item()
    return made


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", ["mixed", "negative", "positive", "small"])
def test_maxima_by_bit_patterns_are_those_by_comparison(kind: str, dim: int) -> None:
    made = numbers(kind)
    assert torch.equal(maxima(made, dim), made.amax(dim))


@pytest.mark.parametrize("offset", [0.0, -300.0, 300.0])
@pytest.mark.parametrize("num_words", [64, 4000, 4096])
def test_words_are_those_of_the_whole_product(num_words: int, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "SLICE", 4 * words.BLOCK)  # so that there are many slices
    monkeypatch.setattr(words, "WIDE_NUMBERS", 100 * TOKENS)
    torch.manual_seed(num_words)
    # whole numbers, whose products and sums are exact in any order
    head = torch.randint(-3, 4, (num_words, 16)).bfloat16()
    states = torch.randint(-3, 4, (TOKENS, 16)).bfloat16()
    head[:, -1], states[:, -1] = offset, 1.0
    head[5], states[0] = 3.0, 3.0  # the highest of the first states
    head[5, -1], states[0, -1] = offset, 1.0
    head[7] = head[5]  # of equals the first counts
    logits = (head @ states.t()).t().float()
    made = Words(head)
    assert torch.equal(made.best(states), logits.argmax(dim=1))
    assert int(made.best(states)[0]) == 5
    out = torch.empty(TOKENS, num_words)
    sums = made.normalised(states, out)
    assert torch.equal(out, logits)
    torch.testing.assert_close(sums[:, 0], logits.double().logsumexp(dim=1).float())
    rows, chosen = torch.tensor([4, 0, 2]), torch.tensor([1, 63, num_words - 1])
    found = made.log_probabilities(states, rows, chosen)
    expected = (logits.double() - logits.double().logsumexp(dim=1, keepdim=True))[rows, chosen].float()
    torch.testing.assert_close(found, expected)
