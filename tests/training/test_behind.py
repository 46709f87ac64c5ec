"""Work behind a run's back."""

from threading import Event

import pytest

from t5ray.training.behind import Behind


def test_pieces_run_one_after_the_other_while_the_caller_goes_on() -> None:
    behind, gate, done = Behind(), Event(), list[int]()

    def first() -> None:
        gate.wait(10)
        done.append(1)

    behind.start(first)
    assert done == []
    gate.set()
    behind.start(lambda: done.append(2))
    behind.wait()
    assert done == [1, 2]
    behind.wait()


def test_what_goes_wrong_comes_out_once_at_the_next_wait() -> None:
    behind = Behind()

    def fail() -> None:
        raise OSError("No space left on device")

    behind.start(fail)
    with pytest.raises(OSError, match="No space left"):
        behind.start(lambda: None)
    behind.wait()
