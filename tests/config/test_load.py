import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5ray.config import (
    EvaluateConfig,
    PredictConfig,
    RunConfig,
    SearchSpace,
    Settings,
    dump_yaml,
    load_settings,
    load_space,
    load_task_file,
    parse_yaml,
    read_yaml,
    shipped_spaces,
)
from t5ray.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def load(config: Path | None = None, **sources: Any) -> RunConfig:
    return load_settings(RunConfig, config=config, flags=sources.pop("flags", {}), **sources)


def problems_of(config: Path | None = None, **sources: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(config, **sources)
    return caught.value.problems


def test_each_source_wins_over_the_one_before(file: Path) -> None:
    file.write_text("training: {learning_rate: 2e-3, batch_size: 2, dropout: 0.2}\n")
    found = load(
        file,
        base={"training.learning_rate": 1e-3, "training.batch_size": 1, "training.dropout": 0.1, "training.seed": 1},
        flags={"training.batch_size": 3, "training.dropout": 0.3, "task": None},
        sets=["training.dropout=0.4"],
    ).training
    assert (found.seed, found.learning_rate, found.batch_size, found.dropout) == (1, 2e-3, 3, 0.4)
    assert found.beta1 == 0.9


def test_mappings_of_several_sources_are_merged_and_left_as_they_were(file: Path) -> None:
    file.write_text("data: {columns: {label: section}}")
    base, flag = {"text": "body"}, {"label": "kind"}
    found = load(file, base={"data.columns": base}, flags={"data.columns": flag})
    assert found.data.columns == {"text": "body", "label": "kind"}
    assert (base, flag) == ({"text": "body"}, {"label": "kind"})


def test_problems_of_all_sources_are_shown_at_once(file: Path) -> None:
    file.write_text("training: {learning_rat: 1}\n")
    problems = problems_of(
        file,
        flags={"search.num_trials": 0},
        flag_names={"search.num_trials": "--num-trials"},
        sets=["no equals", "=1", "task=[", "training.dropout=2"],
    )
    assert sorted(problem.split(":")[0] for problem in problems) == [
        "--num-trials",
        "--set",
        "--set",
        "--set task",
        "--set training.dropout",
        str(file),
    ]
    assert "--set: must be section.key=value, but got 'no equals'." in problems
    assert f"{file}: training.learning_rat: no such setting. Did you mean `learning_rate`?" in problems
    assert "--set training.dropout: input should be less than 1, but got 2." in problems
    assert "--num-trials: input should be greater than or equal to 1, but got 0." in problems


def test_unreadable_file_does_not_hide_other_problems(tmp_path: Path) -> None:
    problems = problems_of(tmp_path / "none.yaml", sets=["nam=x"])
    assert "none.yaml: the file must exist, but does not." in problems[0]
    assert "nam: no such setting. Did you mean `name`?" in problems[1]


def test_a_group_is_named_by_the_file_that_gave_it(file: Path) -> None:
    file.write_text("serch: {num_trials: 3}")
    assert problems_of(file, sets=["name=x"]) == [f"{file}: serch: no such setting. Did you mean `search`?"]


def test_a_setting_is_named_by_the_last_source_that_gave_it(file: Path) -> None:
    file.write_text("search: {num_trials: 0, confirm_seeds: 99}\ndata: {columns: {text: 1}}")
    given = {"search.num_trials": -1, "data.columns": {"label": "kind"}}
    problems = problems_of(file, flags=given, flag_names={"search.num_trials": "-n"}, sets=["training.beta1=2"])
    assert [problem.partition(": ")[0] for problem in problems[:1]] == [str(file)]
    assert problems[0].startswith(f"{file}: data.columns.text: input should be a valid string, but got 1")
    assert problems[1].startswith("--set training.beta1: ")
    assert problems[2].startswith("-n: input should be greater than or equal to 1, but got -1")
    assert problems[3].startswith(f"{file}: search.confirm_seeds: ")


def test_settings_that_clash_are_named_by_their_source_where_it_is_one(file: Path) -> None:
    clash = "training: {optimizer: adafactor, parallel: fsdp}"
    file.write_text(clash)
    assert problems_of(file)[0].startswith(f"{file}: training: parallel=fsdp cannot shard")
    sets = ["training.optimizer=adafactor"]
    assert problems_of(file, sets=sets)[0].startswith("training: parallel=fsdp cannot shard")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("learning_rate=1e-4", "Did you mean `training.learning_rate`?"),
        ("learning_rat=1e-4", "Did you mean `training.learning_rate`?"),
        ("search.learning_rate=1e-4", "Did you mean `training.learning_rate`?"),
        ("seed=1", "Did you mean `training.seed` or `decode.seed` or `search.seed`?"),
        ("nam=x", "Did you mean `name`?"),
        ("training.epochs=3", "Did you mean `max_epochs`?"),
        ("decode.xyzzy=3", "Known names: answers, do_sample, "),
    ],
)
def test_an_unknown_setting_gets_the_one_that_was_meant(given: str, hint: str) -> None:
    (problem,) = problems_of(sets=[given])
    assert problem.startswith(f"--set {given.partition('=')[0]}: no such setting. {hint}")


@pytest.mark.parametrize("budget", ["2hours", "", "1.2.3h", "h", "soon"])
def test_a_time_that_cannot_be_read_is_answered_with_the_forms(budget: str) -> None:
    named = {"search.time_budget_s": "--time-budget"}
    assert problems_of(flags={"search.time_budget_s": budget}, flag_names=named) == [
        f"--time-budget: must be seconds, or a number and its unit such as 90s, 30m, 2h or 1d, but got {budget!r}."
    ]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), (" 1.5h ", 5400), (".5m", 30), ("1d", 86400), (12.5, 12.5)]
)
def test_times_are_read(text: object, seconds: float) -> None:
    assert load(flags={"search.time_budget_s": text}).search.time_budget_s == seconds


@pytest.mark.parametrize("model", [PredictConfig, EvaluateConfig])
def test_what_an_unreadable_file_may_hold_is_not_called_missing(file: Path, model: type[Settings]) -> None:
    file.write_text("model: [")
    with pytest.raises(ConfigError) as caught:
        load_settings(model, config=file, flags={"precision": "fp16"})
    unreadable, precision = caught.value.problems
    assert unreadable.startswith(f"{file}: must be plain YAML")
    assert "at line 1, column 9" in unreadable
    assert precision.startswith("precision: T5's activations overflow in fp16")


def test_group_given_as_a_value_is_refused() -> None:
    assert problems_of(sets=["training=3"]) == [
        "--set training: input should be a valid dictionary or instance of TrainingConfig, but got 3."
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        (".5e3", 500.0),
        ("-2e+4", -2e4),
        ("1.0e-5", 1e-5),
        ("1e", "1e"),
        ("12e03a", "12e03a"),
    ],
)
def test_numbers_with_an_exponent_need_no_point(text: str, value: object) -> None:
    assert parse_yaml(text, "here") == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2", "`a` is given twice"),
        ("a: &x 1\nb: *x", "aliases"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("? [a]\n: b", "a name must be one word"),
        ("? {a: 1}\n: b", "a name must be one word"),
        ("a: [", "expected the node content"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("[" * 5000, "recursion"),
        ("a: 2021-13-45", "month must be in"),
        ("a: \0", "special characters are not allowed"),
    ],
)
def test_unsafe_or_broken_yaml_is_refused_with_place_and_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"here: must be plain YAML, but could not be read: .*{reason}"):
        parse_yaml(text, "here")


def test_huge_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match="must hold at most 1000000 characters, but holds more"):
        parse_yaml("#" * 1_000_001, "here")


@pytest.mark.parametrize(("content", "kind"), [("- a", "list"), ("word", "str"), ("3", "int")])
def test_file_must_hold_a_mapping(file: Path, content: str, kind: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=f"must hold `name: value` lines, but holds a {kind}"):
        read_yaml(file)


def test_empty_file_holds_no_settings(file: Path) -> None:
    file.write_text("# nothing\n")
    assert load(file) == RunConfig()


def test_a_file_that_is_not_there_is_told_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("name: a")
    (tmp_path / "tusk.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"tusk\.yaml: .*, but does not\. Did you mean .*/task\.yaml\?"):
        read_yaml(tmp_path / "tusk.yaml")


def test_undecodable_file_is_refused(file: Path) -> None:
    file.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="the file must exist and hold UTF-8 text"):
        read_yaml(file)


@pytest.mark.parametrize("name", ["1e5", "12e4567", "no", "null", "2021-01-01", "ümlaut", "a: b", "- x", "1:30"])
def test_resolved_settings_are_read_back_whatever_a_text_looks_like(file: Path, name: str) -> None:
    config = RunConfig(name=name, storage=name)
    file.write_text(dump_yaml(config), encoding="utf-8")
    assert load(file) == config


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([], ("adafactor", 1e-3, "constant", 0.0, 0.0, None)),
        (["training.learning_rate=3e-4", "training.max_grad_norm=1"], ("adafactor", 3e-4, "constant", 0.0, 0.0, 1.0)),
        (["training.preset=t5-adamw"], ("adafactor", 1e-3, "constant", 0.0, 0.0, None)),
        (["training.optimizer=sgd"], ("sgd", 1e-3, "constant", 0.0, 0.0, None)),
    ],
)
def test_written_settings_leave_to_a_searched_preset_what_the_given_ones_left(
    file: Path, sets: list[str], expected: tuple[object, ...]
) -> None:
    """Expected are the values of t5-adafactor, of docs/settings.md, but for those that were given."""
    for text in (dump_yaml(load(sets=sets)), dump_yaml(load(sets=sets).public())):
        file.write_text(text)
        found = load(file).training.with_params({"preset": "t5-adafactor"})
        assert (
            found.optimizer,
            found.learning_rate,
            found.schedule,
            found.warmup_share,
            found.weight_decay,
            found.max_grad_norm,
        ) == expected


def test_written_settings_show_what_was_left_to_presets() -> None:
    text = dump_yaml(load(sets=["training.preset=t5-adafactor", "training.optimizer=adafactor"]))
    assert "\n  # learning_rate: 0.001\n" in text
    assert "\n  # max_grad_norm: null\n" in text
    assert "\n  optimizer: adafactor\n" in text
    assert "\n  batch_size: 32\n" in text


@given(
    st.floats(1e-12, 1, allow_nan=False),
    st.text(min_size=1).filter(lambda t: all(ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0 for c in t)),
)
def test_numbers_and_texts_survive_yaml(rate: float, text: str) -> None:
    config = RunConfig.model_validate(
        {"training": {"learning_rate": rate}, "task": text, "data": {"columns": {text: text}}}
    )
    assert RunConfig.model_validate(parse_yaml(dump_yaml(config), "dump")) == config
    assert math.isclose(config.training.learning_rate, rate, rel_tol=0)


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_search_spaces_survive_yaml(name: str) -> None:
    space = load_space(name)
    assert SearchSpace.model_validate(parse_yaml(dump_yaml(space), "dump")) == space


def test_settings_of_nested_lists_get_a_hint_at_the_place_where_the_file_has_them(file: Path) -> None:
    file.write_text(
        "parameters:\n"
        "  optimizer: {choice: [adamw, sgd]}\n"
        "  learning_rate: {logunifrm: [1e-4, 1e-3]}\n"
        "  dropout: {uniform: 3}\n"
        "  momentum:\n"
        "    - {fixed: 0.5, when: {optimizer: adamw}}\n"
        "    - {fixd: 0.9, when: {optimizer: sgd}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_space(str(file))
    assert caught.value.problems == [
        f"{file}: parameters.learning_rate.logunifrm: no such setting. Did you mean `loguniform`?",
        f"{file}: parameters.dropout.uniform: input should be a valid tuple, but got 3.",
        f"{file}: parameters.momentum.1.fixd: no such setting. Did you mean `fixed`?",
    ]


def test_a_space_shows_all_its_problems_at_once(file: Path) -> None:
    file.write_text(
        "parameters:\n"
        "  learning_rat: {loguniform: [1e-4, 1e-3]}\n"
        "  batch_size: {choise: [4, 8]}\n"
        "  dropout: {uniform: [0, 1.7]}\n"
        "  momentum: {fixed: 0.5, when: {batch_size: 4, optimiser: sgd}}\n"
        "sampler: {name: tpee}\n"
        "start_from: [{dropot: 0.1}, {dropout: 2, momentum: [1]}, 3]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_space(str(file))
    named = [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]
    assert "parameters.batch_size.choise: no such setting. Did you mean `choice`?" in named
    assert any(problem.startswith("sampler.name: input should be 'tpe', ") for problem in named)
    assert "learning_rat: a parameter must be a training setting. Did you mean `learning_rate`?" in named
    assert "dropout: training does not allow 1.7: Input should be less than 1." in named
    assert any(
        problem.startswith("momentum: `when` must name a parameter that stands above it, got optimiser. Known names: ")
        for problem in named
    )
    assert "start_from: dropot must be one of the parameters. Did you mean `dropout`?" in named
    assert "start_from: dropout: training does not allow 2: Input should be less than 1." in named
    assert any(problem.startswith("start_from.2: input should be a valid dictionary") for problem in named)
    assert not any("batch_size, got 4" in problem for problem in named), "values of a broken range are not known"
    assert not any("?." in problem or ".." in problem for problem in named)


@pytest.mark.parametrize("content", ["parameters: 3", "parameters: {dropout: }", "{}", "start_from: 3"])
def test_a_space_without_parameters_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=f"{file}: parameters"):
        load_space(str(file))


@pytest.mark.parametrize("name", ["t5_smal", "t5_smal" * 1000])
def test_unknown_space_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.space: must be a YAML file or a shipped space, but got 't5_smal"):
        load_space(name)


def test_task_file_shows_all_its_problems_once(file: Path) -> None:
    file.write_text("name: x\ninputs: '{text'\ntargets: 'a'\nmetrics: [accurcy]\nlables: [a]")
    with pytest.raises(ConfigError) as caught:
        load_task_file(file)
    inputs, targets, metric, labels = caught.value.problems
    assert inputs == f"{file}: inputs: expected '}}' before end of string."
    assert targets == f"{file}: targets: must name at least one column, such as {{text}}, but got 'a'."
    assert metric.startswith(f"{file}: metrics.0: input should be 'accuracy', ")
    assert metric.endswith("but got 'accurcy'. Did you mean `accuracy`?")
    assert labels == f"{file}: lables: no such setting. Did you mean `labels`?"


def test_long_values_are_cut_in_messages() -> None:
    (problem,) = problems_of(flags={"training.batch_size": "x" * 500})
    assert len(problem) < 200
    assert problem.endswith("....")
