"""What becomes of work that is sent to a worker and does not come back."""

from collections.abc import Callable
from typing import Any

import pytest
import ray

from t5ray.config import ResourcesConfig
from t5ray.errors import ClusterError, ModelError
from t5ray.training.errand import run_where_trained

WITH_GPU = ResourcesConfig(gpus_per_worker=0.5)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Let Ray answer with an error; returns what sets it. There is no Ray."""

    class Sent:
        def __init__(self, function: Any) -> None:
            self.function = function

        def remote(self, *arguments: object) -> object:
            return self.function, arguments

    monkeypatch.setattr(ray, "remote", lambda **options: Sent)

    def fail_with(error: Exception) -> None:
        def get(reference: object) -> None:
            raise error

        monkeypatch.setattr(ray, "get", get)

    return fail_with


def test_without_a_gpu_to_ask_for_it_is_called_here() -> None:
    assert run_where_trained(ResourcesConfig(), lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.WorkerCrashedError(),
        ray.exceptions.OutOfMemoryError("killed by the memory monitor"),
        ray.exceptions.NodeDiedError("the node was a spot instance"),
    ],
)
def test_a_worker_or_node_that_dies_is_told_with_what_to_do(
    answer: Callable[[Exception], None], error: Exception
) -> None:
    answer(error)
    with pytest.raises(ClusterError, match=rf"died, or its node did: {type(error).__name__}: .* --resume: nothing is"):
        run_where_trained(WITH_GPU, print)


def test_an_error_of_the_work_itself_is_passed_on(answer: Callable[[Exception], None]) -> None:
    answer(ray.exceptions.RayTaskError("judge", "traceback", ModelError("broken weights")))
    with pytest.raises(ModelError, match="broken weights"):
        run_where_trained(WITH_GPU, print)
