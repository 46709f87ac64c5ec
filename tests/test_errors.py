import pytest

from t5ray.errors import (
    ClusterError,
    ConfigError,
    DataError,
    ModelError,
    StorageError,
    T5RayError,
    TrackingError,
    did_you_mean,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ConfigError, 2), (DataError, 3), (ModelError, 4), (TrackingError, 5), (ClusterError, 6), (StorageError, 6)],
)
def test_exit_codes_are_the_designs(kind: type[T5RayError], code: int) -> None:
    assert issubclass(kind, T5RayError)
    assert kind.exit_code == code


def test_config_error_shows_all_problems() -> None:
    error = ConfigError(["a is wrong", "b is wrong"])
    assert error.problems == ["a is wrong", "b is wrong"]
    assert str(error) == "a is wrong\nb is wrong"
    assert ConfigError("a is wrong").problems == ["a is wrong"]


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("learning_rat", ["learning_rate", "dropout"], "Did you mean `learning_rate`?"),
        ("zzz", ["dropout", "batch_size", "dropout"], "Known names: batch_size, dropout."),
        ("zzz", [], ""),
    ],
)
def test_unknown_name_gets_the_nearest_or_all(name: str, known: list[str], hint: str) -> None:
    assert did_you_mean(name, known) == hint
