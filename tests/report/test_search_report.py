import re
from typing import Any
from xml.etree import ElementTree

import pytest

from t5ray.report import render_search
from tests.report import samples
from tests.report.pages import Page

HEADINGS = ["Trial", "State", "Best", "at epoch", "Epochs", "learning_rate", "batch_size", "dropout", "optimizer"]
HEADINGS += ["Training", "Overhead"]


def page(**changes: Any) -> Page:
    return Page(render_search({**samples.search(), **changes}))


def full_search() -> dict[str, Any]:
    """The sample with everything that a finished search adds."""
    return {
        **samples.search(),
        "confirm": samples.confirm(),
        "rungs": [1, 2, 4],
        "runs_url": "http://127.0.0.1:5000/#/experiments/1/runs/",
        "config": {"tracking": {"uri": "sqlite:///mlflow.db"}},
        "importances": {
            "fANOVA": {"learning_rate": 0.7, "batch_size": 0.2, "dropout": 0.06, "optimizer": 0.04},
            "PED-ANOVA": {"dropout": 0.5, "learning_rate": 0.4, "batch_size": 0.06, "optimizer": 0.04},
        },
    }


def chart(shown: Page, label: str) -> ElementTree.Element:
    (found,) = (c for c in shown.charts if (c.get("aria-label") or "").startswith(label))
    return found


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


def test_what_the_clock_cut_off_was_not_saved_by_stopping_early() -> None:
    search = samples.search()
    search["trials"][4] |= {"stopped_epoch": None, "reason": "cut off after epoch 2 of 6: the time budget was used up"}
    search["trials"][6] |= {"stopped_epoch": 3}
    words = Page(render_search(search)).words
    # of the 16 epochs that were left to four trials, 4 were left to the one that was cut off
    assert "they would have trained 12 more epochs, 27 % of the whole." in words


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
    slices = [chart for chart in shown.charts if (chart.get("aria-label") or "").startswith("Best value against")]
    assert [chart.get("aria-label") for chart in slices] == [
        f"Best value against {name}" for name in ("learning_rate", "batch_size", "dropout", "optimizer")
    ]
    assert all(len(list(chart.iter("circle"))) == 9 for chart in slices)
    assert "The same in all trials: schedule cosine." in shown.words


def test_a_conditional_parameter_is_drawn_where_it_is_set() -> None:
    search = samples.search()
    for trial in search["trials"]:
        if trial["params"]["optimizer"] == "adamw":
            trial["params"]["beta2"] = 0.9 + trial["trial"] / 100
    (chart,) = (c for c in Page(render_search(search)).charts if c.get("aria-label") == "Best value against beta2")
    assert len(list(chart.iter("circle"))) == 5  # of the six trials with adamw, one has no value


def test_null_is_a_value_and_a_dash_is_none() -> None:
    """early_stopping_patience was null in trial 1, and no parameter of trial 2."""
    search = samples.search()
    for number, trial in enumerate(search["trials"]):
        if number != 2:
            trial["params"]["early_stopping_patience"] = None if number == 1 else 3
            trial["params"]["lora"] = number > 5
    rows = [row for row in Page(render_search(search)).rows if len(row) == len(HEADINGS) + 2]
    place = [text for text, _ in rows[0]].index("early_stopping_patience")
    assert [row[place] for row in rows[1:5]] == [("3", "3"), ("null", "null"), ("–", ""), ("3", "3")]
    assert [row[place + 1][0] for row in rows[1:]] == ["false"] * 2 + ["–"] + ["false"] * 3 + ["true"] * 4
    (found,) = (c for c in Page(render_search(search)).charts if "patience" in (c.get("aria-label") or ""))
    assert [text.text for text in found.iter("text")][-2:] == ["3", "null"]


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
    html = render_search(full_search())
    assert [
        url for url in Page(html).fetched if not url.startswith("http://127.0.0.1:5000/#/experiments/1/runs/")
    ] == []
    assert html.count("http") == len(full_search()["trials"])  # the links to the runs, which nobody follows unasked
    assert "url(" not in html
    assert "@import" not in html
    assert len(html) < 100_000


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
    shown = Page(render_search(search))
    assert "4 ran all epochs, 3 stopped early, 2 failed, 1 cut off, resumable." in shown.words
    assert shown.rows[-1][1][0] == "cut off after epoch 2 of 6; --resume goes on with it"


def test_every_way_to_end_is_called_by_its_name() -> None:
    search = samples.search()
    search["trials"][5] |= {"values": [0.6688, 0.8935], "best_epoch": 2}  # by patience: complete, but not all epochs
    search["trials"][4] |= {"stopped_epoch": None, "reason": "cut off after epoch 2 of 6: the time budget was used up"}
    search["trials"][9] |= {"state": "RUNNING", "reason": None, "values": [], "best_epoch": None, "best_value": None}
    shown = Page(render_search(search))
    assert (
        "3 ran all epochs, 1 ended by patience, 2 stopped early, 1 cut off by the time budget, 2 failed, "
        "1 cut off, resumable. Trials that lagged behind"
    ) in shown.words
    causes = [row[1][0] for row in shown.rows if len(row) == 2]
    assert "ended after epoch 2 of 6: it had become no better for as many evaluations as its patience" in causes
    assert "cut off before the end of its first epoch; --resume goes on with it" in causes
    assert len(causes) == 7  # all but those that ran all epochs
    assert "stopped early or cut off" in shown.words


def test_a_search_that_was_over_before_any_trial_says_no_more_than_that() -> None:
    nothing = {"best": None, "default": {"value": None}, "test": None}
    running = [samples.trial(n, "RUNNING", [], {"learning_rate": 0.1}) for n in range(2)]
    words = page(**nothing, trials=running).words
    assert "No trial has ended yet. --resume goes on." in words
    assert "says why" not in words
    failed = samples.trial(2, "FAIL", [], {"learning_rate": 0.1}, "the loss must be finite")
    words = page(**nothing, trials=[*running, failed]).words
    assert (
        "No trial gave a usable model. The table below says why each of them ended; --resume goes on with those that "
        "were running."
    ) in words


@pytest.mark.parametrize(
    ("end", "until"),
    [
        ({"state": "FAIL"}, " before they failed"),
        ({"state": "RUNNING"}, " so far"),
        ({"state": "PRUNED"}, " before they were stopped"),
        ({"state": "PRUNED", "stopped_epoch": None}, " before the time was up"),
        ({"state": "COMPLETE"}, ""),
    ],
)
def test_a_default_that_did_not_come_to_its_end_is_said_to(end: dict[str, Any], until: str) -> None:
    search = samples.search()
    search["trials"][0] |= {**end, "values": [0.8412]}
    words = Page(render_search(search)).words
    assert f"The default settings reached 0.8412{until}. " in words
    assert ("What the search gained" in words) == (until != " before they failed")


def test_fresh_seeds_are_advised_only_where_none_were_asked_for() -> None:
    advice = "--resume --confirm-seeds 3 trains the best ones"
    assert advice in page().words
    assert advice in page(config={"search": {"confirm_seeds": 0}}).words
    for asked in ({"unconfirmed": "the time was up"}, {"config": {"search": {"confirm_seeds": 3}}}):
        words = page(**asked).words
        assert "the best of many trials is partly the luckiest." in words
        assert advice not in words
        assert "summed over trials and confirming runs" in words


def test_a_confirmed_winner_is_shown_with_its_interval() -> None:
    best = {"trial": 7, "value": 0.91, "epoch": 4, "seed": 103}
    shown = Page(render_search(full_search() | {"best": best}))
    assert (
        "Trial 7 reached a validation accuracy of 0.9060 over 3 fresh seeds, with learning_rate 0.0022" in shown.words
    )
    assert "The default settings reached 0.8400. The bundle is the winner's run on seed 103" in shown.words
    assert "which no result has chosen: 0.9100 after epoch 4." in shown.words
    assert "Winner, mean of 3 fresh seeds 0.9060 validation accuracy, 95 % interval 0.8900 to 0.9210" in shown.words
    assert "Default settings, the same seeds 0.8400 95 % interval 0.8200 to 0.8600" in shown.words
    assert "What the search gained +0.0660 winner minus default" in shown.words  # over the seeds, not 0.9131 - 0.8412
    assert "A tie: trial 7 has the best mean, but trial 5 cannot be told from it." in shown.words
    assert "on 3 fresh seeds (101, 102, 103) and judged on the same 400 validation rows" in shown.words
    rows = [[text for text, _ in row] for row in shown.rows]
    assert ["trial 5", "0.8990", "0.8830 to 0.9140", "0.8910", "0.9030", "0.9030", "tie"] in rows
    assert ["default settings", "0.8400", "0.8200 to 0.8600", "0.8300", "0.8400", "0.8500", "behind"] in rows
    lines = list(chart(shown, "Means and intervals").iter("g"))
    assert [g.get("data-trial") for g in lines] == ["7", "5", "2", "0"]  # the winner, then by mean
    winner = {line.get("class"): line for line in lines[0].iter("line")}
    low, mean, high = (
        float(winner[c].get(x) or 0) for c, x in (("interval", "x1"), ("mean", "x1"), ("interval", "x2"))
    )
    assert (mean - low) / (high - low) == pytest.approx((0.906 - 0.89) / (0.921 - 0.89), abs=0.01)


def test_a_bundle_that_gave_all_rows_one_label_is_said_to() -> None:
    said = "Every one of the 400 validation rows was given 'mail': the metrics tell of that label's share alone."
    assert said in page(confirm=samples.confirm() | {"only_prediction": "mail"}).words
    assert "Every one of" not in page(confirm=samples.confirm() | {"only_prediction": None}).words + page().words


def test_a_default_that_ties_is_no_gain() -> None:
    confirm = samples.confirm() | {"tie_with": [0]}
    words = page(confirm=confirm).words
    assert (
        "What the search gained tie +0.0660 in accuracy, which seeds, rows and the pick of the best can explain"
        in words
    )
    assert "A tie: trial 7 has the best mean, but the default settings cannot be told from it." in words


def test_a_winner_without_a_tie_is_called_so_and_may_be_the_default() -> None:
    words = page(
        confirm=samples.confirm() | {"winner": 0, "tie_with": []}, best={"trial": 0, "value": 0.8, "epoch": 1}
    ).words
    assert "Yes: the default settings stays ahead" not in words
    assert "Yes: the default settings stay ahead of every other candidate." in words
    assert "What the search gained" not in words


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([101], "One seed says nothing of how much seeds differ: the intervals are of the rows alone."),
        (
            [101, 102],
            "Two seeds say little of how much seeds differ: the intervals are widened for that, and rough still.",
        ),
    ],
)
def test_intervals_of_few_seeds_are_said_to_be_so(seeds: list[int], said: str) -> None:
    words = page(confirm=samples.confirm() | {"seeds": seeds}).words
    assert f"95 % interval 0.8900 to 0.9210. {said}" in words  # beside the winner's
    assert f"the best of several. {said}" in words  # and above the chart of all
    for enough in (full_search(), samples.search()):
        words = Page(render_search(enough)).words
        assert "One seed says" not in words
        assert "Two seeds say" not in words


def test_the_gain_has_its_interval() -> None:
    confirm = samples.confirm() | {"gain": 0.066, "gain_interval": [-0.0123, 0.1443]}
    said = "0.0660 winner minus default, in units of accuracy, 95 % interval −0.0123 to +0.1443"
    assert said in page(confirm=confirm).words
    tie = (
        "+0.0660 in accuracy, 95 % interval −0.0123 to +0.1443, which seeds, rows and the pick of the best can explain"
    )
    assert tie in page(confirm=confirm | {"tie_with": [0]}).words


def test_one_seed_is_said_to_be_one() -> None:
    words = page().words
    assert "accuracy of trial 7 after its best epoch, 5; one seed" in words
    assert "Not known: every trial ran on one seed" in words


def test_importances_come_by_weight_with_every_estimate() -> None:
    shown = Page(render_search(full_search()))
    rows = [[text for text, _ in row] for row in shown.rows]
    start = rows.index(["learning_rate", "70 %40 %"])  # means of the estimates: 0.55, 0.28, 0.13, 0.04
    assert [row[0] for row in rows[start : start + 4]] == ["learning_rate", "dropout", "batch_size", "optimizer"]
    assert "fANOVA and PED-ANOVA" in shown.words
    assert "10 trials are few for such estimates" in shown.words
    slices = [c.get("aria-label") or "" for c in shown.charts]
    assert [s.rpartition(" ")[2] for s in slices if s.startswith("Best value")] == [
        "learning_rate", "dropout", "batch_size", "optimizer"
    ]  # fmt: skip


def test_importances_that_are_not_known_are_said_to_be_so() -> None:
    words = page(importances=None, importances_unknown="it takes 10 trials, and there are 6").words
    assert "Which parameters mattered Not known: it takes 10 trials, and there are 6." in words
    part = {"PED-ANOVA": full_search()["importances"]["PED-ANOVA"]}
    words = page(importances=part, importances_unknown="fANOVA cannot tell (no variance)").words
    assert "by one estimate of Optuna's: PED-ANOVA." in words
    assert "read the order, not the digits. fANOVA cannot tell (no variance)." in words
    assert "Not known" not in page(best=None, importances_unknown="it takes 10 trials, and there are 0").words


def test_the_test_value_to_quote_is_the_objective_s() -> None:
    changes = {"metric": "validation_loss", "mode": "min", "confirm": samples.confirm()}
    words = page(**changes, test={"exact_match": 0.0, "loss": 1.2345}).words
    assert "Winner, test 1.2345 loss on rows that the search never saw: the number to quote" in words
    assert "Test, all metrics: loss 1.2345, exact_match 0.0000." in words
    assert "Trial 7 reached a validation loss of 0.9060" in words
    assert "Validation loss after each epoch" in words
    assert "validation validation" not in words
    assert "Winner, test 0.9067 accuracy on rows" in page(test={"loss": 1.0, "accuracy": 0.9067}).words


def test_parallel_coordinates_pass_where_a_parameter_is_not_set() -> None:
    search = samples.search()
    for trial in search["trials"]:
        if trial["params"]["optimizer"] == "adamw":
            trial["params"]["beta2"] = 0.9 + trial["trial"] / 100
    found = chart(Page(render_search(search)), "All parameters of all trials")
    threads = {g.get("data-trial"): g for g in found.iter("g")}
    assert set(threads) == {"0", "1", "2", "3", "4", "5", "6", "7", "9"}  # trial 8 has no value
    assert all(len(points(thread)) == 6 for thread in threads.values())  # five parameters and the objective
    unset = {number for number, thread in threads.items() if points(thread)[4][1] == 300}
    assert unset == {"4", "5", "7", "9"}  # adafactor
    assert "winner" in (list(threads.values())[-1].get("class") or "")
    assert "q1" in (threads["7"].get("class") or "")
    assert "q4" in (threads["1"].get("class") or "")


def test_stopping_shows_how_many_trials_each_epoch_had() -> None:
    shown = Page(render_search(full_search()))
    bars = [g.findtext("title") for g in chart(shown, "How many trials trained").iter("g")]
    assert bars == [
        "Epoch 1: 9 trials trained it, 1 was stopped after it",
        "Epoch 2: 7 trials trained it, 2 were stopped after it",
        "Epoch 3: 5 trials trained it, 1 was stopped after it",
        "Epoch 4: 4 trials trained it",
        "Epoch 5: 4 trials trained it",
        "Epoch 6: 4 trials trained it",
    ]
    assert "at ASHA's rungs (after epoch 1, 2, 4)" in shown.words
    assert "stopping early saved 16, some 3 min 18 s of training" in shown.words  # 16 epochs of 12.4 s


def test_each_trial_links_to_its_run() -> None:
    shown = Page(render_search(full_search()))
    expected = [f"http://127.0.0.1:5000/#/experiments/1/runs/{t['mlflow_run_id']}" for t in samples.search()["trials"]]
    assert shown.fetched == expected
    first = re.findall(r'<td class="num first"[^>]*>\s*(.*?)\s*</td>', shown.html)
    assert [re.sub(r"<a [^>]*>|</a>", "", cell).split()[-1] for cell in first] == [str(n) for n in range(10)]
    assert all(url in cell for url, cell in zip(expected, first, strict=True))  # where no scrolling hides it
    leads = "A trial's number leads to its run in MLflow"
    assert f"{leads} while mlflow ui --backend-store-uri sqlite:///mlflow.db runs." in shown.words
    at_server = full_search() | {"config": {"tracking": {"uri": "https://mlflow.example"}}}
    assert f"{leads}. " in Page(render_search(at_server)).words
    assert leads not in page().words


def test_a_run_that_was_not_made_yet_has_no_link() -> None:
    search = full_search()
    search["trials"][0]["mlflow_run_id"] = "unsent-" + "0" * 32
    assert len(Page(render_search(search)).fetched) == len(search["trials"]) - 1


def test_every_chart_has_a_name_and_every_line_a_title() -> None:
    shown = Page(render_search(full_search()))
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in shown.charts)
    assert all(g.findtext("title") for svg in shown.charts for g in svg.iter("g"))


@pytest.mark.parametrize("num_trials", [1, 100])
def test_any_number_of_trials(num_trials: int) -> None:
    search = samples.search()
    search["trials"] = [search["trials"][n % 10] | {"trial": n} for n in range(num_trials)]
    search["best"] = {"trial": 0, "value": 0.8412, "epoch": 5}
    shown = Page(render_search(search))
    assert shown.tags.count("tbody") >= num_trials
    assert "Which parameters mattered" not in shown.words


def test_a_search_that_confirmed_nothing_says_why() -> None:
    shown = page(confirm=None, unconfirmed="the time was up")
    assert "Nothing was confirmed: the time was up." in shown.words
    assert "Nothing was confirmed" not in page(unconfirmed=None).words


def test_a_search_that_was_cut_off_says_what_the_bundle_is_and_who_leads() -> None:
    leading = {"trial": 2, "value": 0.9301, "epoch": 3, "seed": 103}
    words = page(best={"trial": 0, "value": 0.8412, "epoch": 5}, leading=leading).words
    assert (
        "These are the default settings. That is what the bundle is. The search was cut off since: trial 2 leads now, "
        "with a validation accuracy of 0.9301 after epoch 3 on seed 103. --resume goes on, and publishes who wins."
    ) in words
    assert "no other trial was better" not in words
    words = page(best={"trial": 7, "value": 0.91, "epoch": 4, "seed": 103}, test=None, leading=None).words
    assert "The search was cut off before its end: this is how it stood. --resume goes on." in words
    assert "Best so far, validation 0.9100" in words
    assert "The bundle is" not in words  # there is none yet
    assert "The search was cut off" not in page().words
