import gc
import threading
from collections.abc import Callable, Iterator

import pytest

from t5ray.scoring.ahead import one_ahead


def test_results_come_in_order_and_once() -> None:
    assert list(one_ahead(lambda number: number * number, range(5))) == [0, 1, 4, 9, 16]
    assert list(one_ahead(str, [])) == []


def test_the_next_item_is_worked_on_meanwhile_and_none_after_it() -> None:
    begun = [threading.Event() for _ in range(4)]

    def work(number: int) -> int:
        begun[number].set()
        return number

    for number in one_ahead(work, range(4)):
        assert all(event.wait(timeout=60) for event in begun[: number + 2])
        assert not any(event.is_set() for event in begun[number + 2 :])


def test_an_item_is_worked_on_while_the_one_after_it_is_made() -> None:
    begun = [threading.Event() for _ in range(4)]

    def made() -> Iterator[int]:
        for number in range(4):
            assert number == 0 or begun[number - 1].wait(timeout=60)
            yield number

    def work(number: int) -> int:
        begun[number].set()
        return number

    assert list(one_ahead(work, made())) == [0, 1, 2, 3]


def test_an_error_comes_in_its_items_place() -> None:
    results = one_ahead(lambda number: 1 // number, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def of_ahead() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("fails", [{"making": 2}, {"work": 2}, {"making": 2, "work": 1}])
def test_no_thread_is_left_after_an_error_though_items_are_left(fails: dict[str, int]) -> None:
    def failing(where: str) -> Callable[[int], int]:
        return lambda number: number // (0 if fails.get(where) == number else 1)

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError):
            list(one_ahead(failing("work"), map(failing("making"), one_ahead(int, range(5)))))
        assert of_ahead() == []
    finally:
        gc.enable()


@pytest.mark.parametrize(("items", "expected"), [("ab", ["A", "B"]), ("a1", ["A", "ValueError"]), ("", [])])
def test_an_error_of_the_items_comes_after_what_is_begun_by_then(items: str, expected: list[str]) -> None:
    def made() -> Iterator[str]:
        yield from items
        raise OSError("no more")

    def work(item: str) -> str:
        if item.isdigit():
            raise ValueError("no letter")
        return item.upper()

    found, results = list[str](), one_ahead(work, made())
    try:
        for result in results:
            found.append(result)
    except (OSError, ValueError) as exc:
        found.append(type(exc).__name__)
    assert found == (expected if "ValueError" in expected else [*expected, "OSError"])
