"""The decoder's places: what a text gives does not depend on what its place held, nor on who else is there."""

import pytest
import torch

from t5ray.model.decoding.decoder import FIRST_TOKENS, Decoder
from t5ray.model.decoding.encoder import encode
from t5ray.model.decoding.weights import prepare
from tests.model.decoding.models import KINDS, decoder_over, make, padded, token_rows

FED = torch.tensor([[0, 7, 4, 9], [0, 5, 5, 8]])


def steps(decoder: Decoder, columns: torch.Tensor) -> torch.Tensor:
    return torch.stack([decoder.step(column) for column in columns.t()])


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_states_are_those_of_transformers(kind: str) -> None:
    model, rows = make(kind), token_rows()[2:4]
    weights = prepare(model)
    hidden = model(**padded(rows), decoder_input_ids=FED, output_hidden_states=True).decoder_hidden_states[-1]
    own = steps(decoder_over(weights, rows), FED).transpose(0, 1)
    torch.testing.assert_close(own, hidden * weights.head_scale, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_place_filled_again_gives_what_a_fresh_one_does() -> None:
    weights, rows = prepare(make("umt5")), token_rows()
    long, short = rows[0], rows[4]
    decoder = decoder_over(weights, [long, rows[1]])
    steps(decoder, FED[:, :3])
    (part,) = encode(weights, [short])
    decoder.fill(torch.tensor([0]), part)
    found = steps(decoder, torch.stack((FED[0], FED[1].flip(0))))[:, 0]
    torch.testing.assert_close(found, steps(decoder_over(weights, [short]), FED[:1])[:, 0])


@torch.inference_mode()
def test_a_place_of_a_pair_filled_again_gives_what_a_fresh_one_does() -> None:
    weights, rows = prepare(make("umt5")), token_rows()[2:5]
    decoder = decoder_over(weights, rows[:2])
    steps(decoder, FED[:, :3])
    (part,) = encode(weights, rows[2:])
    decoder.fill(torch.tensor([0]), part)
    found = decoder.step(torch.stack((FED[0, 0], FED[1, 3])))
    torch.testing.assert_close(found[0], decoder_over(weights, rows[2:]).step(FED[0, :1])[0])
    torch.testing.assert_close(found[1], steps(decoder_over(weights, rows[1:2]), FED[1:])[3, 0])


@torch.inference_mode()
def test_texts_that_stay_go_on_where_they_were() -> None:
    weights, rows = prepare(make("t5-gated")), token_rows()[:3]
    fed = torch.cat((FED, FED[:1].flip(1)))
    whole, kept, selected = (decoder_over(weights, rows) for _ in range(3))
    for decoder in (whole, kept, selected):
        steps(decoder, fed[:, :2])
    stay = torch.tensor([0, 2])
    kept.keep(stay)
    selected = selected.select(stay)
    expected = steps(whole, fed[:, 2:])[:, stay]
    torch.testing.assert_close(steps(kept, fed[stay, 2:]), expected)
    torch.testing.assert_close(steps(selected, fed[stay, 2:]), expected)


@torch.inference_mode()
def test_texts_may_move_to_places_that_others_give_up() -> None:
    weights, rows = prepare(make("t5-gated")), token_rows()[2:6]
    fed = torch.cat((FED, FED.flip(1)))
    whole, kept = decoder_over(weights, rows), decoder_over(weights, rows)
    for decoder in (whole, kept):
        steps(decoder, fed[:, :2])
    stay = torch.tensor([3, 1])  # texts 0 and 2 leave, the last one takes the place of the first
    kept.keep(stay)
    torch.testing.assert_close(steps(kept, fed[stay, 2:]), steps(whole, fed[:, 2:])[:, stay])


@torch.inference_mode()
def test_texts_may_be_longer_than_the_room_at_first() -> None:
    model, rows, length = make("t5"), token_rows()[:1], 2 * FIRST_TOKENS + 5
    torch.manual_seed(1)
    fed = torch.randint(2, 20, (1, length))
    weights = prepare(model)
    decoder = Decoder.over(weights, encode(weights, rows), length)
    hidden = model(**padded(rows), decoder_input_ids=fed, output_hidden_states=True).decoder_hidden_states[-1]
    own = steps(decoder, fed).transpose(0, 1)
    torch.testing.assert_close(own, hidden * weights.head_scale, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_an_empty_place_gives_numbers() -> None:
    weights = prepare(make("t5"))
    assert torch.isfinite(Decoder(weights, 2, 5, 4).step(torch.zeros(2, dtype=torch.int64))).all()


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_bf16_costs_about_what_it_costs_transformers(kind: str) -> None:
    model, rows = make(kind), token_rows()[:2]
    weights, rounded = prepare(model), prepare(model, torch.bfloat16)
    exact = steps(decoder_over(weights, rows), FED)
    own = steps(decoder_over(rounded, rows), FED)
    assert own.dtype == torch.bfloat16
    output = model.to(torch.bfloat16)(**padded(rows), decoder_input_ids=FED, output_hidden_states=True)
    theirs = output.decoder_hidden_states[-1].transpose(0, 1).float() * weights.head_scale
    assert (own.float() - exact).square().mean() <= 4 * (theirs - exact).square().mean()
