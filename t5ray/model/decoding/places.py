"""Attention of a decoder's texts to the encoder's states, which lie in places of one size, for some places at a time.

A CPU attends to groups of neighbouring places, each as far as the longest of them reaches; on a GPU, where many small
kernels cost more than padding, all places are one group. A call of attention works on one place after the other. For a
dozen states that takes about as long as for twice as many, so short places stand in pairs there, of which each text
sees its own alone. Their states may be copies: groups are made anew when a place is filled. A state that is no number
reaches the texts of both places of a pair.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from t5ray.model.batching import runs_within

GROUP_NUMBERS = 2**20
"""Numbers of the encoder's states that a CPU attends to at once: less, and calls take longer than what they do."""
PAIR_TOKENS = 48
"""Longest reach of places that stand in pairs."""


@dataclass(frozen=True)
class PlaceGroup:
    """Places, in n lots of one or two, whose texts attend to the encoder's states together."""

    places: slice
    states: torch.Tensor
    """[n, 1, S, D]: S is what the longest place needs, for pairs twice that."""
    mask: torch.Tensor
    """0 at tokens and a huge negative number elsewhere, [n, 1, 1 or queries of a lot, S]."""

    def attend(self, queries: torch.Tensor) -> torch.Tensor:
        """Return the mean of the states that each query gets.

        Args:
            queries: of all places, [places, queries of each, D].
        Returns:
            [queries of this group, D].
        """
        width = queries.shape[2]
        own = queries[self.places].reshape(len(self.states), 1, -1, width)
        found = functional.scaled_dot_product_attention(own, self.states, self.states, attn_mask=self.mask, scale=1.0)
        return found.reshape(-1, width)


def group(states: torch.Tensor, mask: torch.Tensor, reaches: list[int], num_queries: int) -> list[PlaceGroup]:
    """Return the groups of R places, in their order.

    Args:
        states: [R, longest, D].
        mask: 0 at tokens and a huge negative number beyond, [R, longest].
        reaches: tokens in each place.
        num_queries: heads times texts of a place.
    """
    if states.device.type != "cpu":
        return [_alone(states, mask, slice(0, len(reaches)), max(reaches))]
    return list(_cpu_groups(states, mask, reaches, num_queries))


def _cpu_groups(states: torch.Tensor, mask: torch.Tensor, reaches: list[int], num_queries: int) -> Iterator[PlaceGroup]:
    for run in runs_within(reaches, GROUP_NUMBERS // states.shape[2]):
        reach, end = max(reaches[run.start : run.stop]), run.start
        if reach <= PAIR_TOKENS and len(run) > 1:
            end = run.stop - len(run) % 2
            yield _paired(states, mask, slice(run.start, end), reach, num_queries)
        if end < run.stop:
            yield _alone(states, mask, slice(end, run.stop), reach)


def _alone(states: torch.Tensor, mask: torch.Tensor, places: slice, reach: int) -> PlaceGroup:
    return PlaceGroup(places, states[places, None, :reach], mask[places, None, None, :reach])


def _paired(states: torch.Tensor, mask: torch.Tensor, places: slice, reach: int, num_queries: int) -> PlaceGroup:
    width, own = states.shape[2], mask[places, :reach].view(-1, 2, 1, reach)
    both = own.new_full((len(own), 2, num_queries, 2, reach), torch.finfo(own.dtype).min)
    for half in (0, 1):
        both[:, half, :, half] = own[:, half]
    return PlaceGroup(
        places,
        states[places, :reach].reshape(len(own), 1, 2 * reach, width),
        both.view(len(own), 1, 2 * num_queries, 2 * reach),
    )
