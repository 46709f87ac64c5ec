"""Scoring a closed set of answers: their tokens form a prefix tree, walked once for a batch of rows.

The rule: an answer's score is the sum of its tokens' log-probabilities, EOS included, under the whole vocabulary, as if
it were generated; its probability is the softmax of the scores over all answers. Nothing is divided by length. What all
answers of a row share changes neither their order nor their probabilities: the sum over the vocabulary before the first
token is not made.

A score can only fall as tokens are added, so a branch whose score is far below a finished answer's cannot win. First
each row's likeliest branch is followed to its end, then the others that still matter. An answer that was given up on
has as its score that of the branch, a bound from above: `margin` says how far below the best that lies at least.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import torch

from t5ray.errors import ModelError
from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.vocabulary import Vocabulary
from t5ray.model.decoding.weights import T5Weights

NEGLIGIBLE = 13.8
"""Log of a million: an answer given up on has less than a millionth of the winner's probability."""
MOST_BRANCHES = 256
"""Branches fed at once; the memory of their caches and inputs' states may allow fewer."""


@dataclass(frozen=True)
class Tree:
    """A prefix tree of N nodes and E edges, each a token that may follow a node. Node 0 is the start token.

    Answers have their places in the order of their tokens, so that those at or below an edge lie side by side. The
    memory is that of the edges, of which there are no more than tokens of all answers.
    """

    starts: torch.Tensor
    """First edge of each node, and the number of edges at the end, int64 [N + 1]."""
    tokens: torch.Tensor
    """Token of each edge, int64 [E]."""
    children: torch.Tensor
    """Node that each edge leads to, int64 [E]; -1 where the edge ends an answer."""
    first: torch.Tensor
    """Place of the first answer at or below each edge, int64 [E]."""
    counts: torch.Tensor
    """Answers at or below each edge, int64 [E]."""
    order: torch.Tensor
    """Answer at each place, int64 [answers]."""
    depth: int
    """Tokens of the longest answer, EOS included."""


def require_ends(labels: Sequence[str], ids: Sequence[Sequence[int]], eos_id: int) -> None:
    """Refuse labels whose tokens do not end in EOS, or have it before: one could be the beginning of another.

    Raises:
        ModelError: names the first such label.
    """
    for label, tokens in zip(labels, ids, strict=True):
        if eos_id not in tokens or tokens.index(eos_id) + 1 != len(tokens):
            raise ModelError(
                f"The tokenizer must end every label with its EOS token, id {eos_id}, and have it nowhere else, but "
                f"{label[:60]!r} gives {list(tokens)[:20]}. Use the tokenizer that belongs to the model, and labels "
                "without its EOS token."
            )


def build(answers: Sequence[Sequence[int]], device: torch.device) -> Tree:
    """Make the tree of answers, given as tokens that `require_ends` passes; no answer comes twice.

    Example:
        [[5, 1], [5, 6, 1]] -> node 0: {5: node 1}; node 1: {1: answer 0, 6: node 2}; node 2: {1: answer 1}
    """
    order = sorted(range(len(answers)), key=lambda answer: tuple(answers[answer]))
    starts, edges = [0], list[tuple[int, int, int, int]]()
    nodes = [(0, len(order), 0)]  # place of the first answer below, the number of them, tokens before the node
    for start, count, depth in nodes:  # grows on the way
        place = start
        for token, group in groupby(order[start : start + count], key=lambda answer: answers[answer][depth]):
            below = len(list(group))
            is_end = len(answers[order[place]]) == depth + 1
            edges.append((token, -1 if is_end else len(nodes), place, below))
            if not is_end:
                nodes.append((place, below, depth + 1))
            place += below
        starts.append(len(edges))
    tokens, children, first, counts = torch.tensor(edges, device=device).t().contiguous()
    return Tree(
        torch.tensor(starts, device=device),
        tokens,
        children,
        first,
        counts,
        torch.tensor(order, device=device),
        depth=max(map(len, answers)),
    )


def score(
    model: T5Weights,
    vocabulary: Vocabulary,
    decoder: Decoder,
    tree: Tree,
    *,
    margin: float = NEGLIGIBLE,
    most_tokens: int | None = None,
) -> torch.Tensor:
    """Return the score of every answer for each row, fp32 [B, answers], each row's less a number of its own.

    Args:
        decoder: fresh, over the encoded rows, with room for the tree's depth.
        margin: branches that lie further below the best answer are given up on; 0 finds the winner alone, infinity
            scores every answer in full.
        most_tokens: tokens of the inputs and answers of the branches fed at once, at most, each counted as the longest
            (one may exceed it alone). None: any number.
    """
    device = model.device
    most = (
        MOST_BRANCHES
        if most_tokens is None
        else max(1, min(MOST_BRANCHES, most_tokens // (decoder.longest + tree.depth)))
    )
    walk = _Walk(model, vocabulary, tree, margin, decoder, most)
    rows = torch.arange(decoder.places, device=device)
    start = torch.full_like(rows, model.start_id)
    walk.go(decoder, start, _Branches(rows, torch.zeros_like(rows), torch.zeros(decoder.places, device=device)))
    return walk.scores


@dataclass(frozen=True)
class _Branches:
    """P branches of rows."""

    rows: torch.Tensor
    """Row of each, int64 [P]."""
    nodes: torch.Tensor
    """Node at its tip, int64 [P]."""
    scores: torch.Tensor
    """Sum of its log-probabilities so far, [P]."""


@dataclass(frozen=True)
class _Steps:
    """Q ways on from the tips of branches."""

    branches: torch.Tensor
    """Branch that each goes on from, int64 [Q]; all ways of a branch lie side by side."""
    edges: torch.Tensor
    """Edge that it takes, int64 [Q]."""
    scores: torch.Tensor
    """Sum of the branch's log-probabilities and its own, [Q]."""

    def __getitem__(self, chosen: torch.Tensor | slice) -> "_Steps":
        """Return some, by a mask or a slice."""
        return _Steps(self.branches[chosen], self.edges[chosen], self.scores[chosen])

    def split(self, most: int) -> "list[_Steps]":
        """Return them in parts of so many at most."""
        return [self[start : start + most] for start in range(0, len(self.edges), most)]


_Visit: TypeAlias = Iterator["_Visit"]
"""A visit of branches, which yields those of the branches below, each to be made before it goes on."""


class _Walk:
    def __init__(
        self, model: T5Weights, vocabulary: Vocabulary, tree: Tree, margin: float, root: Decoder, most_branches: int
    ) -> None:
        self._vocabulary, self._tree, self._margin = vocabulary, tree, margin
        self._root, self._most_branches = root, most_branches
        num_rows = root.places
        self.scores = torch.full((num_rows, len(tree.order)), -torch.inf, device=model.device)
        self._best = torch.full((num_rows,), -torch.inf, device=model.device)
        """Score of the best finished answer of each row."""

    def go(self, decoder: Decoder, tokens: torch.Tensor, branches: _Branches) -> None:
        """Walk the tree below branches: depth first, by a stack of visits, for answers may be long."""
        visits = [self._visit(decoder, tokens, branches)]
        while visits:
            below = next(visits[-1], None)
            if below is None:
                visits.pop()
            else:
                visits.append(below)

    def _visit(self, decoder: Decoder, tokens: torch.Tensor, branches: _Branches) -> _Visit:
        """Feed the branches' last tokens, finish the answers that end there, and yield the visits of the rest."""
        tree = self._tree
        where, edges = _spread(tree.starts[branches.nodes], tree.starts[branches.nodes + 1])
        states, words = decoder.step(tokens), tree.tokens[edges]
        if decoder is self._root:
            found = self._vocabulary.logits_of(states, words[: len(words) // len(states)]).flatten()
        else:
            found = self._vocabulary.log_probabilities(states, where, words)
            decoder.release()  # branches below take their inputs from the root, so that one level's are there at a time
        steps = _Steps(where, edges, found + branches.scores[where])
        is_inner = tree.children[edges] >= 0
        self._finish(branches, steps[~is_inner])
        inner = steps[is_inner]
        is_open = torch.isinf(self._best[branches.rows])[inner.branches]
        highest = torch.full_like(branches.scores, -torch.inf)
        highest.scatter_reduce_(0, inner.branches, inner.scores, "amax")
        first = is_open & (inner.scores == highest[inner.branches])
        groups = [group for group in (inner[first], inner[~first]) if len(group.edges)]
        left: Decoder | None = decoder
        del decoder
        for number, group in enumerate(groups, start=1):
            chunks = self._worth(branches, group).split(self._most_branches)
            for place, chosen in enumerate(chunks, start=1):
                assert left is not None
                tips = _Branches(branches.rows[chosen.branches], tree.children[chosen.edges], chosen.scores)
                visit = self._visit(
                    left.select(chosen.branches, tips.rows, self._root), tree.tokens[chosen.edges], tips
                )
                if (number, place) == (len(groups), len(chunks)):
                    left = None  # nothing goes on from here any more: long answers hold one cache, not one a token
                yield visit

    def _finish(self, branches: _Branches, ends: _Steps) -> None:
        """Note the answers that end here."""
        self._note(branches, ends)
        self._best.scatter_reduce_(0, branches.rows[ends.branches], ends.scores, "amax")

    def _note(self, branches: _Branches, steps: _Steps) -> None:
        """Give every answer at or below the steps' edges their score."""
        first = self._tree.first[steps.edges]
        which, places = _spread(first, first + self._tree.counts[steps.edges])
        self.scores[branches.rows[steps.branches[which]], self._tree.order[places]] = steps.scores[which]

    def _worth(self, branches: _Branches, steps: _Steps) -> _Steps:
        """Return the steps that still matter; the others' scores are their answers' bounds."""
        worth = steps.scores > self._best[branches.rows[steps.branches]] - self._margin
        self._note(branches, steps[~worth])
        return steps[worth]


def _spread(starts: torch.Tensor, stops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of several ranges one after the other, and of each its range; both int64.

    Example:
        2 up to 4, 7 up to 8 -> ranges [0, 0, 1], numbers [2, 3, 7]
    """
    counts = stops - starts
    which = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return which, torch.arange(len(which), device=counts.device) + (starts - before)[which]
