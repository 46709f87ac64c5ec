"""Which kind of work an operation counts to."""

import pytest

from benchmarks.scoring_budget import REST, shares


def test_shares_example() -> None:
    found = shares([("aten::mm", 5.0), ("aten::addmm_", 1.0), ("aten::bmm", 1.5), ("aten::slice", 0.5)])
    assert {kind: share for kind, share in found.items() if share} == pytest.approx(
        {"products with weights": 0.75, "attention": 0.1875, REST: 0.0625}
    )
