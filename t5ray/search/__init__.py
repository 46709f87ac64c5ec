"""Hyperparameter search: which settings to try, which trials to stop, which weights to publish.

    space.py      a search-space file as Optuna sees it     searcher.py   Optuna proposes and is told the truth
    scheduler.py  ASHA                                      trainable.py  a warm slot as Tune sees it
    ledger.py     what is known of every trial, on disk     observer.py   Tune's events -> ledger, MLflow, console
    study.py      the whole search                          result.py     search.json, best/, report.html
    preview.py    what a search would do                    workspace.py where everything of a search is kept

The only home of ray.tune and optuna. Must not know Ray Data.
"""
