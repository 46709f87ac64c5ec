"""What an epoch has gathered survives an interruption, whoever goes on with it."""

import pytest

from t5ray.training.course import EpochCourse
from t5ray.training.group import Group
from t5ray.training.step import EpochSums


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_worker_takes_over_its_share_of_the_tokens(size: int) -> None:
    """Worker 0 tells the bar the speed of the group from its own tokens: all of them would be `size` times too many."""
    sums = EpochSums(step=3, loss=1.5, target_tokens=7, real_tokens=1000, padded_tokens=2001, seconds=2.0)
    saved = EpochCourse(sums).plain(Group())
    shares = []
    for rank in range(size):
        group = Group()
        group.rank, group.size = rank, size
        shares.append(EpochCourse.restored(saved, group).sums)
    assert sum(share.real_tokens for share in shares) == 1000
    assert sum(share.padded_tokens for share in shares) == 2001
    assert all(share.real_tokens * size == pytest.approx(1000, abs=size) for share in shares)
    assert {(share.step, share.loss, share.target_tokens, share.seconds) for share in shares} == {(3, 1.5, 7, 2.0)}
