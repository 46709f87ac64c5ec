"""Scoring a closed set of answers: their tokens form a prefix tree, walked once for a batch of rows.

The rule: an answer's score is the sum of its tokens' log-probabilities, EOS included, under the whole vocabulary, as if
it were generated; its probability is the softmax of the scores over all answers. Nothing is divided by length.

A score can only fall as tokens are added, so a branch whose score is far below a finished answer's cannot win. First
each row's likeliest branch is followed to its end, then the others that still matter. An answer that was given up on
has as its score that of the branch, a bound from above: `margin` says how far below the best that lies at least.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.vocabulary import Vocabulary
from t5ray.model.decoding.weights import T5Weights

NEGLIGIBLE = 13.8
"""Log of a million: an answer given up on has less than a millionth of the winner's probability."""
MOST_BRANCHES = 256
"""Branches fed at once, which bounds the memory of their caches."""


@dataclass(frozen=True)
class Tree:
    """A prefix tree. Node 0 is the start token; a node's children are the tokens that may follow it."""

    tokens: torch.Tensor
    """Child tokens of each node, int64 [nodes, C]; -1 fills up."""
    children: torch.Tensor
    """Node of each child, int64 [nodes, C]; -1 where the child ends an answer or fills up."""
    answers: torch.Tensor
    """Answer that a child ends, int64 [nodes, C]; -1 elsewhere."""
    below: torch.Tensor
    """Answers at or below each child, bool [nodes, C, answers]."""
    depth: int
    """Tokens of the longest answer, EOS included."""


def build(answers: Sequence[Sequence[int]], device: torch.device) -> Tree:
    """Make the tree of answers, given as tokens that end in EOS; no answer comes twice.

    Example:
        [[5, 1], [5, 6, 1]] -> node 0: {5: node 1}; node 1: {1: answer 0, 6: node 2}; node 2: {1: answer 1}
    """
    nodes: list[dict[int, tuple[int, int, list[int]]]] = [{}]
    for number, answer in enumerate(answers):
        here = 0
        for position, token in enumerate(answer):
            is_end = position == len(answer) - 1
            if token not in nodes[here]:
                nodes[here][token] = (-1 if is_end else len(nodes), number if is_end else -1, [])
                if not is_end:
                    nodes.append({})
            child, _, below = nodes[here][token]
            below.append(number)
            here = child
    width = max(map(len, nodes))
    tokens, children, ends = (torch.full((len(nodes), width), -1) for _ in range(3))
    leads_to = torch.zeros(len(nodes), width, len(answers), dtype=torch.bool)
    for node, found in enumerate(nodes):
        for place, (token, (child, end, numbers)) in enumerate(found.items()):
            tokens[node, place], children[node, place], ends[node, place] = token, child, end
            leads_to[node, place, numbers] = True
    depth = max(map(len, answers))
    return Tree(tokens.to(device), children.to(device), ends.to(device), leads_to.to(device), depth)


def score(
    model: T5Weights, vocabulary: Vocabulary, decoder: Decoder, tree: Tree, *, margin: float = NEGLIGIBLE
) -> torch.Tensor:
    """Return the score of every answer for each row, fp32 [B, answers].

    Args:
        decoder: fresh, over the encoded rows, with room for the tree's depth.
        margin: branches that lie further below the best answer are given up on; 0 finds the winner alone, infinity
            scores every answer in full.
    """
    device = model.device
    walk = _Walk(model, vocabulary, tree, margin, decoder.places)
    rows = torch.arange(decoder.places, device=device)
    start = torch.full_like(rows, model.start_id)
    walk.visit(decoder, start, _Branches(rows, torch.zeros_like(rows), torch.zeros(decoder.places, device=device)))
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


class _Walk:
    def __init__(self, model: T5Weights, vocabulary: Vocabulary, tree: Tree, margin: float, num_rows: int) -> None:
        self._model, self._vocabulary, self._tree, self._margin = model, vocabulary, tree, margin
        num_answers = tree.below.shape[-1]
        self.scores = torch.full((num_rows, num_answers), -torch.inf, device=model.device)
        self._best = torch.full((num_rows,), -torch.inf, device=model.device)
        """Score of the best finished answer of each row."""

    def visit(self, decoder: Decoder, tokens: torch.Tensor, branches: _Branches) -> None:
        """Feed the branches' last tokens, finish the answers that end there, and go down the rest."""
        tree = self._tree
        logits, log_sum = self._vocabulary.normalised(decoder.step(tokens))
        following = tree.tokens[branches.nodes]
        found = logits.gather(1, following.clamp_min(0)) - log_sum
        scores = (found + branches.scores[:, None]).masked_fill(following < 0, -torch.inf)
        self._finish(branches, scores)
        is_inner = tree.children[branches.nodes] >= 0
        self._give_bounds(branches, scores.masked_fill(~is_inner, -torch.inf))
        open_ = is_inner & torch.isinf(self._best[branches.rows])[:, None]
        first = open_ & (scores == scores.masked_fill(~open_, -torch.inf).amax(dim=1, keepdim=True))
        self._go_down(decoder, branches, scores, first)
        self._go_down(decoder, branches, scores, is_inner & ~first)

    def _finish(self, branches: _Branches, scores: torch.Tensor) -> None:
        """Note the answers that end here."""
        answers = self._tree.answers[branches.nodes]
        branch, place = (answers >= 0).nonzero(as_tuple=True)
        rows, values = branches.rows[branch], scores[branch, place]
        self.scores[rows, answers[branch, place]] = values
        self._best.scatter_reduce_(0, rows, values, "amax")

    def _give_bounds(self, branches: _Branches, scores: torch.Tensor) -> None:
        """Give each answer below a branch that branch's score, until its own is known."""
        branch, place = (scores > -torch.inf).nonzero(as_tuple=True)
        pair, answer = self._tree.below[branches.nodes[branch], place].nonzero(as_tuple=True)
        self.scores[branches.rows[branch[pair]], answer] = scores[branch[pair], place[pair]]

    def _go_down(self, decoder: Decoder, branches: _Branches, scores: torch.Tensor, chosen: torch.Tensor) -> None:
        worth = chosen & (scores > (self._best[branches.rows] - self._margin)[:, None])
        branch, place = worth.nonzero(as_tuple=True)
        if not len(branch):
            return
        nodes, rows = branches.nodes[branch], branches.rows[branch]
        for part in torch.split(torch.arange(len(branch), device=branch.device), MOST_BRANCHES):
            where, at = branch[part], place[part]
            self.visit(
                decoder.select(where),
                self._tree.tokens[nodes[part], at],
                _Branches(rows[part], self._tree.children[nodes[part], at], scores[where, at]),
            )
