from typing import Any
from xml.etree import ElementTree

import pytest

from t5ray.report import render_search
from tests.report import samples
from tests.report.pages import Page

HEADINGS = ["Trial", "State", "Best", "at epoch", "Epochs", "learning_rate", "batch_size", "dropout", "optimizer"]
HEADINGS += ["Training", "Overhead", "MLflow run"]


def page(**changes: Any) -> Page:
    return Page(render_search({**samples.search(), **changes}))


def points(curve: ElementTree.Element) -> list[tuple[float, float]]:
    line = next(path for path in curve.iter("path") if path.get("class") == "line")
    pairs = (line.get("d") or "").removeprefix("M").split("L")
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in pairs)]


def test_the_headline_says_winner_default_gain_and_test() -> None:
    words = page().words
    assert (
        "Trial 7 reached a validation accuracy of 0.9131 after epoch 5, with learning_rate 0.0022, batch_size 16, "
        "dropout 0.05, optimizer adafactor. The default settings reached 0.8412."
    ) in words
    assert "What the search gained +0.0719" in words
    assert "Winner, test 0.9067" in words
    assert "accuracy 0.9067, macro_f1 0.8934, weighted_f1 0.9052." in words


def test_every_trial_has_its_row_with_the_numbers_of_the_mapping() -> None:
    search = samples.search()
    shown = page()
    headings, *rows = [row for row in shown.rows if len(row) == len(HEADINGS)]
    assert [text for text, _ in headings] == HEADINGS
    assert [int(by or "") for (_, by), *_ in rows] == [trial["trial"] for trial in search["trials"]]
    for row, trial in zip(rows, search["trials"], strict=True):
        cells = dict(zip(HEADINGS, row, strict=True))
        assert cells["State"][0] == trial["state"]
        assert cells["Best"][1] == ("" if trial["best_value"] is None else str(trial["best_value"]))
        assert cells["Best"][0] == ("–" if trial["best_value"] is None else str(trial["best_value"]).ljust(6, "0"))
        assert cells["at epoch"][0] == str(trial["best_epoch"] or "–")
        assert cells["Epochs"][1] == str(len(trial["values"]))
        assert {name: cells[name][1] for name in trial["params"]} == {k: str(v) for k, v in trial["params"].items()}
        assert (cells["Training"][1], cells["Overhead"][1]) == (str(trial["train_s"]), str(trial["overhead_s"]))
        assert trial["mlflow_run_id"].startswith(cells["MLflow run"][0])
    causes = [row[1][0] for row in shown.rows if len(row) == 2]
    assert causes == [trial["reason"] for trial in search["trials"] if trial["reason"]]


def test_the_cost_is_added_up() -> None:
    words = page().words
    assert "4 ran all epochs, 4 stopped early, 2 failed." in words
    # 5 + 4 + 3 + 4 epochs were left to the four stopped trials; 6 * 4 + 1 + 1 + 2 + 3 + 0 + 2 = 33 were trained
    assert "they would have trained 16 more epochs, 33 % of the whole." in words
    assert "Wall time 7 min 12 s" in words
    assert "Epochs trained 33" in words
    assert "Training and validation 6 min 49 s" in words  # 33 epochs of 12.4 s
    assert "Overhead per trial 1.2 s" in words
    assert "12.5 s in all, 3 % of the trials' time" in words


def test_the_curves_show_every_trial_with_values_and_the_winner_on_top() -> None:
    chart = page().charts[0]
    curves = [g for g in chart.iter("g") if "curve" in (g.get("class") or "")]
    assert {g.get("data-trial") for g in curves} == {"0", "1", "2", "3", "4", "5", "6", "7", "9"}
    assert [g.get("class") for g in curves[-2:]] == ["curve default complete", "curve winner complete"]
    default, winner = (points(curve) for curve in curves[-2:])
    assert [x for x, _ in default] == [x for x, _ in winner] == sorted(x for x, _ in winner)
    assert all(high < low for (_, high), (_, low) in zip(winner, default, strict=True))  # y grows downwards
    assert [text.text for text in chart.iter("text")][-2:] == ["trial 0, default", "trial 7, winner"]


def test_each_parameter_that_differs_has_a_chart() -> None:
    search = samples.search()
    for trial in search["trials"]:
        trial["params"]["schedule"] = "cosine"
    shown = Page(render_search(search))
    assert [chart.get("aria-label") for chart in shown.charts[1:]] == [
        f"Best value against {name}" for name in ("learning_rate", "batch_size", "dropout", "optimizer")
    ]
    assert all(len(list(chart.iter("circle"))) == 9 for chart in shown.charts[1:])
    assert "The same in all trials: schedule cosine." in shown.words


def test_a_conditional_parameter_is_drawn_where_it_is_set() -> None:
    search = samples.search()
    for trial in search["trials"]:
        if trial["params"]["optimizer"] == "adamw":
            trial["params"]["beta2"] = 0.9 + trial["trial"] / 100
    (chart,) = (c for c in Page(render_search(search)).charts if c.get("aria-label") == "Best value against beta2")
    assert len(list(chart.iter("circle"))) == 5  # of the six trials with adamw, one has no value


@pytest.mark.parametrize("key", ["name", "task", "model", "data"])
def test_text_of_users_is_escaped(key: str) -> None:
    html = render_search({**samples.search(), key: "<script>alert('x')</script>"})
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html


def test_text_inside_trials_is_escaped() -> None:
    search = samples.search()
    search["trials"][3]["reason"] = "<img src=x onerror=alert(1)>"
    search["trials"][3]["params"]["optimizer"] = '"><script>alert(1)</script>'
    search["trials"][4]["params"]["<b>odd</b>"] = 1
    html = render_search(search)
    shown = Page(html)
    assert shown.tags.count("script") == 1
    assert not {"img", "b>"} & set(shown.tags)
    assert "<img src=x onerror=alert(1)>" in shown.text
    assert "<b>odd" not in html
    assert shown.charts  # still well-formed


def test_nothing_is_fetched_from_elsewhere() -> None:
    html = render_search(samples.search())
    assert Page(html).fetched == []
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert len(html) < 60_000


def test_one_trial() -> None:
    search = samples.search()
    search["trials"] = [samples.trial(0, "COMPLETE", [0.5], samples.params(1e-3, 8, 0.1, "adamw"))]
    search |= {"best": {"trial": 0, "value": 0.5, "epoch": 1}, "default": {"value": 0.5}, "max_epochs": 1}
    shown = Page(render_search(search))
    assert "These are the default settings: no other trial was better." in shown.words
    assert len(shown.charts) == 1
    assert "The same in all trials: learning_rate 0.001, batch_size 8, dropout 0.1, optimizer adamw." in shown.words


def test_all_failed() -> None:
    search = samples.search()
    search["trials"] = [samples.trial(n, "FAIL", [], {"learning_rate": 0.1 * (n + 1)}, f"cause {n}") for n in range(3)]
    search |= {"best": None, "default": {"value": None}, "test": None}
    shown = Page(render_search(search))
    assert "No trial gave a usable model." in shown.words
    assert [row[1][0] for row in shown.rows if len(row) == 2] == ["cause 0", "cause 1", "cause 2"]
    assert shown.charts == []
    assert "Winner" not in shown.words


def test_missing_optional_keys_values_that_are_not_finite_and_a_smaller_objective() -> None:
    values = [2.0, float("nan"), 1.0]
    diverged = samples.trial(1, "FAIL", values, {"learning_rate": 0.1}) | {"best_epoch": 3, "best_value": 1.0}
    default = samples.trial(0, "COMPLETE", [1.5, 1.25], {"learning_rate": 0.01}) | {"best_epoch": 2, "best_value": 1.25}
    search = {
        "metric": "validation_loss",
        "mode": "min",
        "seed": 1,
        "best": {"trial": 1, "value": 1.0, "epoch": 3},
        "trials": [default, diverged],
    }
    shown = Page(render_search(search))
    assert "Hyperparameter search" in shown.words
    assert "lower is better" in shown.words
    assert "What the search gained" not in shown.words
    winner = next(g for g in shown.charts[0].iter("g") if "winner" in (g.get("class") or ""))
    assert len(points(winner)) == 2
    shown = Page(render_search({**search, "default": {"value": 1.25}}))
    assert "What the search gained +0.2500 winner below default" in shown.words


def test_a_trial_that_was_cut_off() -> None:
    search = samples.search()
    search["trials"][9] |= {"state": "RUNNING", "reason": None, "overhead_s": 0.0, "mlflow_run_id": None}
    words = Page(render_search(search)).words
    assert "4 ran all epochs, 3 stopped early, 2 failed, 1 cut off, resumable." in words
