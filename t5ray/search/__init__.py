"""Hyperparameter search: which settings to try, which trials to stop, which weights to publish.

    space.py      a search-space file as Optuna sees it     searcher.py   Optuna proposes and is told the truth
    points.py     what runs before the sampler proposes     samplers.py   Optuna's samplers by name
    scheduler.py  ASHA and the median rule                  trainable.py  a warm slot as Tune sees it
    ledger.py     what is known of every trial, on disk     observer.py   Tune's events -> ledger, MLflow, console
    books.py      a search begun, or taken up again         journal.py    Optuna's study on disk
    study.py      the search itself
    confirm.py    the best trained again on fresh seeds     conclude.py   the winner's bundle, its test, the end
    importance.py how much each parameter decided           result.py     search.json, report.html, a sentence
    preview.py    what a search would do                    workspace.py  where everything of a search is kept
    capacity.py   how many trials run at a time, and on what
    estimate.py   how much is left to run, and how long that takes
    contradictions.py  values of a space that no run can have
    finite.py     spaces that hold so many settings and no more
    run_ids.py    MLflow's ids of runs that began without them

The only home of ray.tune and optuna. Must not know Ray Data.
"""
