"""A model's name -> what scoring must know of it, read without loading its weights.

Comes in: settings. Goes out: a `ScoringModel`: where it is, its task, decode settings, labels. Must not know rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from t5ray.config import LANGUAGES, DecodeConfig, PredictConfig, TaskConfig
from t5ray.config.decode import DEFAULT_NEW_TOKENS, overridden
from t5ray.config.explain import explain
from t5ray.counting import counted
from t5ray.errors import ConfigError
from t5ray.model.card import REGISTRY_SCHEMES, BundleCard, fingerprint, read_card, require_model
from t5ray.model.own_decode import plain_decode
from t5ray.scoring.fetching import fetch_registered, fetch_uri
from t5ray.storage import is_uri, local_path
from t5ray.text.tasks import resolve_task


@dataclass(frozen=True)
class ScoringModel:
    """A model that is to score, read without loading its weights."""

    source: str
    """Directory or hub id."""
    fingerprint: str
    """Digest of the model: equal ones predict equally."""
    task: TaskConfig
    decode: dict[str, Any]
    """Decode settings in force, those included that are the model's own."""
    split_seed: int
    """Seed that cut the data in training: with it, `test` are the rows that training did not see."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column the task looks for -> column of the data that trained the model."""
    origin: str = ""
    """URI that `source` was fetched from; empty where the model is a folder or of the hub."""
    commit: str = ""
    """Commit of a hub id; empty where the model is a folder."""
    labels: tuple[str, ...] = ()
    """The closed set that predictions are taken from; empty where the model generates."""
    temperature: float = 1.0
    """Divides the labels' scores before they become probabilities."""
    is_rendered: bool = False
    """True where the input's one column holds what the task renders, to be scored to the letter."""

    @property
    def gives_texts(self) -> bool:
        """True where a row gets several texts."""
        return not self.labels and self.decode.get("num_return_sequences", 1) > 1


def open_model(config: PredictConfig, *, task: TaskConfig | None = None) -> ScoringModel:
    """Find the model and its task.

    Args:
        task: one whose input column holds the encoder's text to the letter, in place of the model's own.
    Raises:
        ConfigError: neither the model nor the settings say what the task is, or both do; or what is asked for does not
            fit the model.
        ModelError: the model is missing or broken.
        ClusterError, TrackingError: what holds it cannot be reached.
    """
    source, origin = _locate(config)
    commit, card = _commit(source), read_card(source)
    known = task or _task(config, card.task if card else None)
    closed = known.labels if known.closed_labels else ()
    labels = _answers(config, card) or closed
    if labels:
        _require_one_text(config, known.name, labels)
    decode = _decode(config, source, card, generates=not labels)
    if decode.answers:
        _require_apart(decode.answers, "decode.answers", source)
    elif not card:
        _require_apart(closed, f"{config.task}: labels", source)
    if config.on_long == "error" and not card:
        _require_length(config, source)
    return ScoringModel(
        source=source,
        fingerprint=fingerprint(source, commit),
        task=known,
        labels=labels,
        temperature=card.temperature_of(labels) if card else 1.0,
        decode=decode.model_dump(mode="json"),
        split_seed=card.seeds.get("split", 0) if card else 0,
        columns=card.columns if card else {},
        origin=origin,
        commit=commit,
        is_rendered=task is not None,
    )


def _require_apart(answers: Sequence[str], place: str, source: str) -> None:
    """Refuse answers that are the same tokens to the model: only one of them could ever be given.

    Raises:
        ConfigError: names them.
        ModelError: the tokenizer does not end them.
    """
    if not answers:
        return
    from t5ray.model.decoding.labels import require_ends  # only here: no driver needs torch otherwise
    from t5ray.model.loading import load_tokenizer  # likewise transformers

    tokenizer = load_tokenizer(source)
    ids = tokenizer(list(answers), verbose=False).input_ids
    require_ends(answers, ids, tokenizer.eos_token_id)
    known: dict[tuple[int, ...], str] = {}
    for answer, tokens in zip(answers, ids, strict=True):
        other = known.setdefault(tuple(tokens), answer)
        if other != answer:
            raise ConfigError(
                f"{place}: the model's tokenizer must tell answers apart, but {other!r} and {answer!r} are the same "
                "tokens to it. Leave one of them out, or take a model that was trained on such text."
            )


def _require_one_text(config: PredictConfig, task: str, labels: Sequence[str]) -> None:
    """Refuse several texts a row where each is one of a closed set: told before beams are, more of which do not help.

    Raises:
        ConfigError: they are asked for.
    """
    if config.decode and config.decode.num_return_sequences > 1:
        raise ConfigError(
            f"decode.num_return_sequences: needs a model that generates, but {task} with {config.model} takes each "
            f"prediction from {counted(len(labels), 'text')}. Leave it out; --all-scores gives the probability of each "
            "of them."
        )


def _require_length(config: PredictConfig, source: str) -> None:
    """Refuse that inputs longer than a plain model's length are errors where it has none.

    Raises:
        ConfigError: it has none.
    """
    from t5ray.model.loading import load_config, load_tokenizer, model_max_tokens  # only here, likewise

    if model_max_tokens(load_config(source), load_tokenizer(source)) is None:
        raise ConfigError(
            f"on_long: error needs the length of the longest input that the model takes, but {config.model} is no "
            "bundle and says none. Write model_max_length into its tokenizer_config.json, or leave --on-long out."
        )


def _commit(source: str) -> str:
    if Path(source).is_dir():
        return ""
    from t5ray.model.loading import commit_of  # with torch and transformers, which no driver needs for a folder

    return commit_of(source)


def _answers(config: PredictConfig, card: BundleCard | None) -> tuple[str, ...]:
    """Return the texts that the decode settings narrow predictions to: those asked for, or the bundle's own."""
    if config.decode and "answers" in config.decode.model_fields_set:
        return config.decode.answers
    return card.decode.answers if card else ()


def _decode(config: PredictConfig, source: str, card: BundleCard | None, *, generates: bool) -> DecodeConfig:
    """Put the settings that are asked for upon the model's own. What a plain model generates by is no matter to labels.

    Raises:
        ConfigError: they do not go together.
        ModelError: a plain model's file cannot be read, or asks for what decoding here does not know.
    """
    asked = config.decode
    try:
        if generates and not card:
            return plain_decode(source, asked)
        own = card.decode.model_dump() if card else {"max_new_tokens": DEFAULT_NEW_TOKENS}
        return overridden(own, asked)
    except ValidationError as exc:
        problems = explain(DecodeConfig, exc, lambda loc: ".".join(("decode", *map(str, loc))))
        others = f"those of {config.model}" if card else f"those of {config.model}, or the defaults"
        hint = f"The settings that are not given are {others}. Give them as well: --set decode.NAME=VALUE."
        raise ConfigError([f"{problem} {hint}" for problem in problems]) from exc


def _locate(config: PredictConfig) -> tuple[str, str]:
    """Return the model's directory on this machine, or its hub id, and the URI that it was fetched from, if any."""
    if config.model.startswith(REGISTRY_SCHEMES):
        return str(fetch_registered(config.model, config.tracking_uri)), ""
    if is_uri(config.model):
        return str(fetch_uri(config.model)), config.model
    folder = local_path(config.model)
    require_model(str(folder))
    return (str(folder.absolute()) if folder.is_dir() else config.model), ""  # workers run in other directories


def _task(config: PredictConfig, own: TaskConfig | None) -> TaskConfig:
    given = [name for name in ("task", *LANGUAGES) if getattr(config, name) is not None]
    if own is not None and given:
        raise ConfigError(
            f"{given[0]}: {config.model} is a bundle and brings its own task ({own.name}). "
            f"Leave --{_flag(given[0])} out."
        )
    if own is not None:
        return own
    if config.task is None:
        raise ConfigError(
            f"task: {config.model} is no bundle, so --task must say how rows become inputs: classify, summarize, "
            "answer, translate or a YAML file. If it is meant to be a bundle, check the path."
        )
    return resolve_task(config.task, source_language=config.source_language, target_language=config.target_language)


def _flag(name: str) -> str:
    return name.replace("_", "-")
