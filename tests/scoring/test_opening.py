import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from t5ray.config import DecodeConfig, PredictConfig, TaskConfig
from t5ray.errors import ConfigError, ModelError, TrackingError
from t5ray.model.card import BundleCard
from t5ray.scoring.opening import open_model
from t5ray.scoring.plan import prepare
from tests.scoring.plans import changed, planned


def test_the_task_comes_from_the_bundle_or_the_settings_and_not_from_both(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    with pytest.raises(ConfigError, match="is no bundle, so --task must say how rows become inputs"):
        prepare(changed(settings, task=None))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in tiny_t5.iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    task = TaskConfig(name="shout", inputs="shout: {text}", targets="{loud}", metrics=("exact_match",))
    card = BundleCard(task=task, decode=DecodeConfig(max_new_tokens=9), max_input_tokens=32)
    (bundle / "t5ray.json").write_text(card.model_dump_json())
    with pytest.raises(ConfigError, match=r"is a bundle and brings its own task \(shout\)\. Leave --task out"):
        prepare(changed(settings, model=str(bundle)))
    job = planned(changed(settings, model=str(bundle), task=None))
    assert job.spec.texts.task == task
    assert json.loads(json.dumps(job.fingerprint))["decode"]["max_new_tokens"] == 9


def test_one_decode_setting_leaves_the_bundles_others_as_they_are(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    bundle = shutil.copytree(tiny_t5, tmp_path / "bundle")
    task = TaskConfig(name="shout", inputs="shout: {text}", targets="{loud}", metrics=("exact_match",))
    own = DecodeConfig(max_new_tokens=9, num_beams=4, length_penalty=0.5)
    card = BundleCard(task=task, decode=own, max_input_tokens=32)
    (bundle / "t5ray.json").write_text(card.model_dump_json())
    asked = DecodeConfig.model_validate({"num_beams": 2})
    job = planned(changed(settings, model=str(bundle), task=None, decode=asked))
    decode = job.fingerprint["decode"]
    assert [decode[name] for name in ("num_beams", "max_new_tokens", "length_penalty")] == [2, 9, 0.5]


def test_decode_settings_that_clash_with_the_bundles_are_refused(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    bundle = shutil.copytree(tiny_t5, tmp_path / "bundle")
    task = TaskConfig(name="shout", inputs="shout: {text}", targets="{loud}", metrics=("exact_match",))
    card = BundleCard(task=task, decode=DecodeConfig(max_new_tokens=9, num_beams=4), max_input_tokens=32)
    (bundle / "t5ray.json").write_text(card.model_dump_json())
    with pytest.raises(
        ConfigError,
        match="decode: do_sample needs num_beams 1, but got 4; sampled beams are not offered. The settings that are "
        f"not given are those of {bundle}. Give them as well: --set decode.NAME=VALUE",
    ):
        prepare(changed(settings, model=str(bundle), task=None, decode={"do_sample": True}))


def test_a_registered_model_is_looked_up_at_the_tracking_uri(settings: PredictConfig, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/other.db"
    with pytest.raises(TrackingError, match=f"{store} must exist to find models:/topics@champion"):
        prepare(changed(settings, model="models:/topics@champion", tracking_uri=store))
    with pytest.raises(TrackingError, match=r"tracking\.uri: must say where MLflow knows models:/topics@champion"):
        prepare(changed(settings, model="models:/topics@champion", tracking_uri="none"))


def test_a_model_at_a_uri_is_read_from_a_copy_here(
    settings: PredictConfig, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t5ray.storage import upload_dir

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload_dir(tiny_t5, "memory://plan/best")
    model = open_model(changed(settings, model="memory://plan/best"))
    assert model.origin == "memory://plan/best"
    assert Path(model.source).is_relative_to(tmp_path / "cache")
    assert model.fingerprint == open_model(settings).fingerprint
    assert open_model(changed(settings, model=f"file://{tiny_t5}")).source == str(tiny_t5)


def stating(model: Path, folder: Path, **values: Any) -> Path:
    """Copy a plain model whose generation_config.json states these values as well."""
    file = shutil.copytree(model, folder) / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def test_a_plain_models_own_decode_settings_belong_to_the_job(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    own = stating(tiny_t5, tmp_path / "own", num_beams=4, no_repeat_ngram_size=2, max_length=30)
    config = changed(settings, model=str(own))
    wanted = DecodeConfig(num_beams=4, no_repeat_ngram_size=2, max_new_tokens=29)
    assert planned(config).fingerprint["decode"] == wanted.model_dump(mode="json")
    job = planned(changed(config, decode=DecodeConfig.model_validate({"num_beams": 2})))
    assert job.spec.engine.decode == wanted.model_copy(update={"num_beams": 2})
    assert planned(settings).spec.engine.decode == DecodeConfig(max_new_tokens=128)


def test_how_a_plain_model_generates_is_no_matter_where_it_does_not(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    own = stating(tiny_t5, tmp_path / "own", num_beams=4, suppress_tokens=[5])
    config = changed(settings, model=str(own))
    with pytest.raises(ModelError, match=r"does not know, but it has suppress_tokens \[5\]"):
        open_model(config)
    task = tmp_path / "topics.yaml"
    task.write_text('{name: t, inputs: "{text}", targets: "{label}", metrics: [accuracy], labels: [up, down]}')
    for closed in (changed(config, task=str(task)), changed(config, decode={"answers": ["up", "down"]})):
        assert open_model(closed).decode["num_beams"] == 1


@pytest.mark.parametrize(
    ("own", "asked", "problem"),
    [
        ({}, {"min_new_tokens": 129}, "min_new_tokens must be at most max_new_tokens 128"),
        ({"max_length": 9}, {"min_new_tokens": 9}, "min_new_tokens must be at most max_new_tokens 8"),
        (
            {"num_beams": 4},
            {"do_sample": True},
            "do_sample needs num_beams 1, but got 4; sampled beams are not offered",
        ),
        ({"num_beams": 0}, {}, r"num_beams: input should be greater than or equal to 1, but got 0"),
    ],
)
def test_decode_settings_that_clash_with_a_plain_models_are_refused(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path, own: dict[str, Any], asked: dict[str, Any], problem: str
) -> None:
    model = stating(tiny_t5, tmp_path / "own", **own)
    hint = f"The settings that are not given are those of {model}, or the defaults. Give them as well: --set decode"
    with pytest.raises(ConfigError, match=rf"decode.*{problem}. {hint}"):
        open_model(changed(settings, model=str(model), decode=DecodeConfig.model_validate(asked)))


@pytest.mark.parametrize("labels", [["größe", "grüße", "ok"], ["日本", "中国"]])
def test_labels_that_are_the_same_to_a_plain_model_are_refused(
    settings: PredictConfig, tmp_path: Path, labels: list[str]
) -> None:
    task = tmp_path / "topics.yaml"
    words = {"name": "t", "inputs": "{text}", "targets": "{label}", "metrics": ["accuracy"], "labels": labels}
    task.write_text(json.dumps(words))
    one, other = labels[:2]
    message = (
        rf"topics\.yaml: labels: .* must tell answers apart, but '{one}' and '{other}' are the same tokens to it\. "
    )
    with pytest.raises(ConfigError, match=message):
        open_model(changed(settings, task=str(task)))
    task.write_text(json.dumps({**words, "labels": labels[1:]}))
    assert open_model(changed(settings, task=str(task))).labels == tuple(sorted(labels[1:]))


def test_labels_that_a_plain_models_tokenizer_does_not_end_are_refused(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    endless = shutil.copytree(tiny_t5, tmp_path / "endless")
    file = endless / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))
    config = changed(settings, model=str(endless))
    assert open_model(config).labels == ()  # transformers generates from inputs without EOS as well
    with pytest.raises(
        ModelError, match=r"must end every label with its EOS token, id 1, .* 'ab' gives \[3, 4\]\. Use"
    ):
        open_model(changed(config, decode={"answers": ["ab", "a", "abc", "b"]}))


def test_long_inputs_are_errors_only_to_a_model_that_says_what_is_long(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    strict = changed(settings, on_long="error")
    open_model(strict)
    endless = shutil.copytree(tiny_t5, tmp_path / "endless")
    file = endless / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 10**30}))
    open_model(changed(settings, model=str(endless)))
    with pytest.raises(
        ConfigError,
        match=f"on_long: error needs the length of the longest input that the model takes, but {endless} is no bundle "
        "and says none. Write model_max_length into its tokenizer_config.json, or leave --on-long out",
    ):
        open_model(changed(strict, model=str(endless)))
    config = endless / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_positions": 512}))
    open_model(changed(strict, model=str(endless)))


@pytest.mark.parametrize("closed_by", ["task", "bundle", "answers", "the bundle's answers"])
def test_several_texts_a_row_are_refused_where_none_is_generated(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path, closed_by: str
) -> None:
    labels = ["up", "down", "left"]
    words = {"name": "way", "inputs": "{text}", "targets": "{label}", "metrics": ["accuracy"]}
    decode: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3}
    config = settings
    if closed_by == "answers":
        decode["answers"] = labels
    elif closed_by == "task":
        (tmp_path / "way.yaml").write_text(json.dumps({**words, "labels": labels}))
        config = changed(config, task=str(tmp_path / "way.yaml"))
    else:
        bundle = shutil.copytree(tiny_t5, tmp_path / "bundle")
        own, task = ({}, {**words, "labels": labels}) if closed_by == "bundle" else ({"answers": labels}, words)
        card = {"task": task, "decode": {"max_new_tokens": 5, **own}, "max_input_tokens": 25}
        (bundle / "t5ray.json").write_text(json.dumps(card))
        config = changed(config, task=None, model=str(bundle))
    message = r"decode\.num_return_sequences: needs a model that generates, but \w+ with .* from 3 texts\. Leave it out"
    for asked in (decode, {**decode, "num_beams": 1}):  # more beams would not help
        with pytest.raises(ConfigError, match=message):
            open_model(changed(config, decode=asked))
    del decode["num_return_sequences"]
    assert sorted(open_model(changed(config, decode=DecodeConfig.model_validate(decode))).labels) == sorted(labels)
