"""The table of the training benchmark, worked out by hand from made-up outcomes."""

from dataclasses import replace

from benchmarks.training import Work, best_trainer, mean_curve, table
from benchmarks.training_contenders import Outcome
from benchmarks.training_curve import drawing, smooth

SLOW = Outcome(
    seconds=40.0, losses=[3.0, 2.0], train_loss=2.5, validation_loss=2.0, padding=0.5, peak_bytes=2**30, cpu_s=80.0
)
FAST = replace(
    SLOW, seconds=10.0, cpu_s=0.0, losses=[5.0, 4.0], train_loss=2.55, validation_loss=1.99, peak_bytes=2**29
)
FOUND = {
    "trainer": [SLOW, replace(SLOW, seconds=44.0), replace(SLOW, seconds=30.0)],
    "trainer-grouped": [replace(SLOW, seconds=20.0)] * 3,
    "trainer-bf16": [replace(SLOW, seconds=25.0)] * 3,
    "t5ray": [FAST, replace(FAST, seconds=8.0), replace(FAST, seconds=12.0)],
}


def test_the_best_trainer_is_the_fastest_of_those_that_were_set() -> None:
    assert best_trainer(FOUND) == "trainer-grouped"
    assert best_trainer({"trainer": [SLOW]}) is None


def test_speed_is_the_median_and_ratios_follow_from_it() -> None:
    lines = table(FOUND, Work(source_tokens=4000, target_tokens=400, flops=1e12), ceiling=1e12)
    assert lines[1].split() == [
        "trainer",
        "100",
        "110",
        "50",
        "2.5%",
        "50.0%",
        "1024",
        "2.5000",
        "2.0000",
        "91",
        "to",
        "133",
    ]
    assert lines[4].split() == [
        "t5ray",
        "400",
        "440",
        "0",
        "10.0%",
        "50.0%",
        "512",
        "2.5500",
        "1.9900",
        "333",
        "to",
        "500",
    ]
    assert lines[5:] == [
        "t5ray to Seq2SeqTrainer as it comes (trainer): 4.00 times the speed (in each round 4.00, 5.50, 2.50), "
        "0.50 of its memory, "
        "train loss +2.00%, validation loss -0.50%",
        "t5ray to Seq2SeqTrainer at its best (trainer-grouped): 2.00 times the speed (in each round 2.00, 2.50, 1.67), "
        "0.50 of its memory, "
        "train loss +2.00%, validation loss -0.50%",
    ]


def test_a_second_worker_is_held_to_twice_the_speed() -> None:
    two = replace(SLOW, seconds=25.0, reduce_s=2.0)  # of two steps
    lines = table({"t5ray-1-worker": [SLOW], "t5ray-2-workers": [two]}, Work(4000, 400, 1e12), ceiling=1e12)
    assert lines[3:] == [
        "2 workers to 1, a thread each: 1.60 times the speed, an efficiency of 80%; "
        "of 12.50 s a step, adding up gradients takes 2.00 s by itself"
    ]


def test_curves_are_means_over_rounds_and_then_over_steps() -> None:
    assert mean_curve([SLOW, FAST]) == [4.0, 3.0]
    assert smooth([4.0, 2.0, 6.0], 2) == [4.0, 3.0, 4.0]


def test_the_drawing_names_each_curve_with_where_it_ends() -> None:
    svg = drawing({"t5ray": [4.0, 3.0, 2.5], "trainer": [4.0, 3.5, 2.75]})
    assert "t5ray 2.500" in svg
    assert "trainer 2.750" in svg
    assert svg.count("<path d=") >= 2
