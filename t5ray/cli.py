"""What the five commands share: settings, exit codes.

An entry declares a typer command out of the types of `options.py` and ends with `raise SystemExit(main())`, where
`main` is `run(command, argv)`. Must not import torch, ray or mlflow: `--help` answers in a blink.
"""

import atexit
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import typer

from t5ray import terminal
from t5ray.disk import FULL
from t5ray.errors import ClusterError, ConfigError, T5RayError
from t5ray.options import SEEDS, SETTING_OF
from t5ray.redaction import hide_secrets

if TYPE_CHECKING:
    from t5ray.config import RunConfig, Settings

S = TypeVar("S", bound="Settings")
_ARGV: list[str] = []
"""Arguments of the running command, for `again`."""
INTERRUPTED = 130
ROW_ERRORS = 8


def flags(ctx: typer.Context, setting_of: Mapping[str, str]) -> dict[str, Any]:
    """Return dotted setting -> value for the options that were given.

    Raises:
        typer.BadParameter: a `--column` is not of the form name=column.
    """
    given = {setting_of[name]: value for name, value in ctx.params.items() if name in setting_of and value is not None}
    for setting, value in given.items():
        if setting.endswith("columns"):
            given[setting] = dict(_column(item) for item in value)
    return {setting: value for setting, value in given.items() if value not in ({}, [])}


def load(
    ctx: typer.Context,
    model: "type[S]",
    setting_of: Mapping[str, str],
    *,
    base: Mapping[str, Any] | None = None,
    checks: "Sequence[Callable[[Mapping[str, Any]], list[str]]]" = (),
) -> "S":
    """Resolve a command's settings from flags, `--config` and `--set`; see `config.load_settings`.

    Raises:
        ConfigError: holds every problem.
    """
    from t5ray.config import load_settings

    names = {setting_of[o.name]: o.opts[0] for o in ctx.command.params if o.name in setting_of}
    given = flags(ctx, setting_of)
    if "seed" not in setting_of and ctx.params.get("seed") is not None:
        given |= dict.fromkeys(SEEDS, ctx.params["seed"])
        names |= dict.fromkeys(SEEDS, "--seed")
    file, sets = ctx.params["config"], ctx.params["sets"] or []
    return load_settings(model, config=file, flags=given, flag_names=names, sets=sets, base=base, checks=checks)


def run_settings(ctx: typer.Context) -> "RunConfig":
    """Resolve the settings of tune and train from flags, `--config` and `--set`.

    Where neither data, task nor model is named anywhere, the embedded demo's settings take the place of the defaults.

    Raises:
        ConfigError: holds every problem, those of the task and of tune's search space included; or what differs from
            the settings of the run that is to go on.
    """
    from t5ray import sessions
    from t5ray.config import RunConfig
    from t5ray.demo import settings as demo_settings
    from t5ray.text.objectives import source_problems, space_problems, task_problems

    named_in_file = _named_in(ctx.params["config"])
    named = {*flags(ctx, SETTING_OF), *(item.partition("=")[0].strip() for item in ctx.params["sets"] or [])}
    is_demo = named_in_file is not None and not (named | named_in_file) & {"data.path", "task", "model", "data"}
    goes_on = "--resume" if ctx.params["resume"] else "--extend" if ctx.params.get("extend") else None
    book = sessions.SEARCH_BOOK if "search_space" in ctx.params else sessions.RUN_BOOK

    def name_problems(merged: Mapping[str, Any]) -> list[str]:
        if goes_on is None or merged.get("name") is not None:
            return []
        return sessions.unnamed_problems(goes_on, str(merged.get("storage") or RunConfig().storage), book)

    checks = [
        *([] if named_in_file is None else [source_problems, name_problems]),
        task_problems,
        *([space_problems] if "search_space" in ctx.params else []),
    ]
    settings = load(ctx, RunConfig, SETTING_OF, base=demo_settings() if is_demo else None, checks=checks)
    if goes_on is not None:
        if is_demo:
            sessions.require_demo(settings, book, goes_on)
        sessions.require_same_settings(settings, book, extends=goes_on == "--extend")
    return settings if settings.name else settings.model_copy(update={"name": default_name(settings.task or "run")})


def _named_in(file: str | None) -> set[str] | None:
    """Return the groups of settings that a file gives; None where it cannot be read: nobody knows what is missing."""
    from t5ray.config import read_yaml

    try:
        return set(read_yaml(file)) if file else set()
    except ConfigError:
        return None  # what is wrong with it, and with all else, is told together


def default_name(task: str) -> str:
    """Return the name of a run that was given none: the task and the time.

    Example:
        default_name("tasks/dates.yaml") -> "dates-20261123-204218"
    """
    return f"{Path(task).stem}-{datetime.now():%Y%m%d-%H%M%S}"


def again(module: str, **extra: object) -> str:
    """Return the command that was run, as it can be typed again, with extra flags.

    None leaves out a flag and its value, False a flag that has none.

    Example:
        again("tune", resume=True) -> "python -m t5ray.tune --data a.csv --task classify --resume"
    """
    new = {f"--{name.replace('_', '-')}": value for name, value in extra.items()}
    words, given = list[str](), iter(_ARGV)
    for word in given:
        if word in new and not isinstance(new[word], bool):
            next(given, None)
        elif word.partition("=")[0] not in new:
            words.append(word)
    for flag, value in new.items():
        words += [] if value in (None, False) else [flag] if value is True else [flag, str(value)]
    return terminal.typed(hide_secrets(shlex.join(["python", "-m", f"t5ray.{module}", *words])))


def _column(item: str) -> tuple[str, str]:
    name, equals, column = item.partition("=")
    if not (name and equals and column):
        raise typer.BadParameter(f"--column must be name=column, such as text=review_body, but got {item!r}.")
    return name, column


def run(command: Callable[..., int], prog: str, argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Errors that a user can cause print one paragraph and no traceback; Ctrl-C gives 130; SIGTERM counts as Ctrl-C.
    """
    _ARGV[:] = sys.argv[1:] if argv is None else argv
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(cls=_Command)(_guarded(command))
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(list(_ARGV), prog_name=prog)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0
    finally:  # what is registered last is called first, before libraries clean up
        atexit.register(_end_at_once)
    return 0


class _Command(typer.core.TyperCommand):
    """A command that answers an unknown option with the setting of that name, or with the nearest option alone."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        try:
            return super().parse_args(ctx, args)
        except Exception as exc:  # typer keeps the class of it to itself
            if not hasattr(exc, "possibilities"):  # it is no unknown option
                raise
            if setting := _setting(str(ctx.info_name), getattr(exc, "option_name", "")):
                exc.message, exc.possibilities = f"{exc}. It is a setting: --set {setting}=VALUE", []  # type: ignore[attr-defined]
            elif _is_of_searches(str(ctx.info_name), getattr(exc, "option_name", "")):
                exc.message, exc.possibilities = f"{exc}. It is one of searches: python -m t5ray.tune", []  # type: ignore[attr-defined]
            elif exc.possibilities:
                exc.possibilities = exc.possibilities[:1]
            raise


def _setting(command: str, flag: str) -> str | None:
    """Return the command's setting that a flag which does not exist may have meant.

    Example:
        _setting("python -m t5ray.train", "--learning-rate") -> "training.learning_rate"
    """
    from pydantic import BaseModel

    from t5ray.config import EvaluateConfig, PredictConfig, RunConfig

    own = _own_name(command)
    configs: dict[str, type[BaseModel]] = {"predict": PredictConfig, "evaluate": EvaluateConfig}
    name, fields = flag.lstrip("-").replace("-", "_"), configs.get(own, RunConfig).model_fields
    for section, field in fields.items():
        kinds = (field.annotation, *get_args(field.annotation))  # a section may be missing: `DecodeConfig | None`
        within = [kind.model_fields for kind in kinds if hasattr(kind, "model_fields")]
        if section == name and not within:
            return name
        if (own, section) != ("train", "search") and any(name in settings for settings in within):
            return f"{section}.{name}"
    return None


def _is_of_searches(command: str, flag: str) -> bool:
    """Say whether a flag that train does not have is one of tune, of a search."""
    name = flag.lstrip("-").replace("-", "_")
    return _own_name(command) == "train" and (name == "extend" or SETTING_OF.get(name, "").startswith("search."))


def _own_name(command: str) -> str:
    """Return a command's short name.

    Example:
        _own_name("python -m t5ray.train") -> "train", and so of "t5ray train"
    """
    return command.rpartition(".")[2].rpartition(" ")[2]


def _guarded(command: Callable[..., int]) -> Callable[..., None]:
    """Turn a command's return value, and the errors a user can cause, into exit codes."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
        except T5RayError as exc:
            terminal.show_error(exc)
            code = exc.exit_code
        except OSError as exc:
            if exc.errno not in FULL:
                raise
            again = "Free some, and give the same command again (tune and train: with --resume)."
            terminal.show_error(ClusterError(f"The disk must have room, but: {exc}. {again}"))
            code = ClusterError.exit_code
        except KeyboardInterrupt:
            terminal.stderr.print("Interrupted. Give the same command to start again.")
            code = INTERRUPTED
        raise typer.Exit(code)

    return guarded


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end_at_once() -> None:
    """Let Ctrl-C and SIGTERM end a process whose command is over: raised in a library's end, they print a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, _interrupt):
            signal.signal(number, signal.SIG_DFL)
