"""The options of the five commands, each with its help, and the settings that they give.

A command declares a parameter of one of these types; the name of the parameter decides the setting: see `SETTING_OF`.
"""

from typing import Annotated

import typer

ConfigFile = Annotated[str | None, typer.Option("--config", help="YAML file of settings; flags win over it.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Any setting: section.key=value. Wins over all.")]
Address = Annotated[
    str | None, typer.Option(help="Ray to join: auto or HOST:PORT. Default: RAY_ADDRESS, else an own one.")
]
Data = Annotated[str | None, typer.Option(help="File, glob, folder, URI or hf:NAME[:CONFIG].")]
Task = Annotated[str | None, typer.Option(help="classify, summarize, answer, translate or a YAML file.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="Rename: text=review_body. Repeatable.")]
Model = Annotated[str | None, typer.Option(help="Hugging Face id, directory or bundle of a T5.")]
ScoringModel = Annotated[str | None, typer.Option(help="Hugging Face id, directory, bundle or models:/NAME@ALIAS.")]
SearchSpaceOption = Annotated[str | None, typer.Option("--search-space", help="YAML file or shipped name.")]
NumTrials = Annotated[int | None, typer.Option(help="Trials in all, the default settings included.")]
MaxEpochs = Annotated[int | None, typer.Option(help="Epochs of a full run.")]
WorkersPerTrial = Annotated[int | None, typer.Option(help="Ray Train workers that share a run.")]
GpusPerWorker = Annotated[float | None, typer.Option(help="GPUs of one worker; fractions share a GPU.")]
MaxConcurrent = Annotated[int | None, typer.Option(help="Trials at a time. Default: what fits.")]
TimeBudget = Annotated[str | None, typer.Option(help="Stop searching after, say, 90s, 30m or 2h.")]
ConfirmSeeds = Annotated[
    int | None, typer.Option(help="Fresh seeds on which the best trials are trained again; 0 for none.")
]
WarmStart = Annotated[str | None, typer.Option(help="Earlier search of this storage whose best points go first.")]
Metric = Annotated[str | None, typer.Option(help="Objective. Default: the task's first metric.")]
Storage = Annotated[str | None, typer.Option(help="Directory or URI that holds the run's folder.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow tracking URI, or `none`.")]
Experiment = Annotated[str | None, typer.Option(help="MLflow experiment.")]
Register = Annotated[str | None, typer.Option(help="Register the best model in MLflow as NAME, alias champion.")]
Name = Annotated[str | None, typer.Option(help="Name of the run and of its folder.")]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of sampler, data order, dropout and augmentation; not of splits or sampled text."),
]
BootstrapSeed = Annotated[int | None, typer.Option("--seed", help="Seed of the intervals' bootstrap.")]
SourceLanguage = Annotated[str | None, typer.Option(help="For translate: language of `source`.")]
TargetLanguage = Annotated[str | None, typer.Option(help="For translate: language of `target`.")]
SkipBadRows = Annotated[
    bool | None, typer.Option("--skip-bad-rows", help="Leave out unusable rows, counted and listed.")
]
Input = Annotated[str | None, typer.Option(help="File, glob, folder, URI or hf:NAME[:CONFIG] of rows.")]
Output = Annotated[str | None, typer.Option(help="Directory for the results.")]
Format = Annotated[str | None, typer.Option(help="parquet, jsonl or csv.")]
Workers = Annotated[str | None, typer.Option(help="Scorers at a time: N, or MIN,MAX of a pool that scales.")]
CpusPerWorker = Annotated[float | None, typer.Option(help="CPUs of one scorer; fractions share a CPU.")]
BatchTokens = Annotated[int | None, typer.Option(help="Padded input tokens a scorer forwards at once.")]
Engine = Annotated[str | None, typer.Option(help="What runs the model: torch or ctranslate2.")]
Scores = Annotated[bool | None, typer.Option("--scores", help="Add each prediction's probability.")]
AllScores = Annotated[bool | None, typer.Option("--all-scores", help="Add the probability of every label.")]
RetryErrors = Annotated[bool | None, typer.Option("--retry-errors", help="Score again only rows with an error.")]
OnLong = Annotated[str | None, typer.Option(help="Inputs longer than the bundle's length: truncate or error.")]
Predictions = Annotated[str | None, typer.Option(help="Output directory of predict, references in the same rows.")]
Split = Annotated[str | None, typer.Option(help="train, validation, test or all.")]
Precision = Annotated[str | None, typer.Option(help="auto, bf16 or fp32.")]
Preview = Annotated[
    bool,
    typer.Option("--preview", help="Show what would run and, for tune, measure a few steps to say how long it takes."),
]
ShowAugmented = Annotated[
    int | None, typer.Option(help="Show this many training rows before and after augmentation; train nothing.", min=1)
]
EveryNode = Annotated[bool, typer.Option("--cluster", help="Also ask every node of the cluster.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run of the same name.")]
Extend = Annotated[int | None, typer.Option(help="Add this many trials to a finished search.", min=1)]

SETTING_OF = {
    "data": "data.path",
    "columns": "data.columns",
    "skip_bad_rows": "data.skip_bad_rows",
    "search_space": "search.space",
    "num_trials": "search.num_trials",
    "max_concurrent": "search.max_concurrent",
    "time_budget": "search.time_budget_s",
    "confirm_seeds": "search.confirm_seeds",
    "warm_start": "search.warm_start",
    "metric": "search.metric",
    "max_epochs": "training.max_epochs",
    "workers_per_trial": "resources.workers_per_trial",
    "gpus_per_worker": "resources.gpus_per_worker",
    "tracking_uri": "tracking.uri",
    "experiment": "tracking.experiment",
    "register": "register_as",
    "task": "task",
    "source_language": "source_language",
    "target_language": "target_language",
    "model": "model",
    "storage": "storage",
    "name": "name",
    "address": "address",
}
"""Parameter name of an option of tune and train -> the setting it gives. predict and evaluate map names one to one."""
SEEDS = ("search.seed", "training.seed")
"""What --seed of tune and train gives."""
