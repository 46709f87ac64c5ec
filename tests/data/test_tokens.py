import dataclasses
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from t5ray.config import DataConfig
from t5ray.data import Example, Splits, TokenisedData, TokenisedSplit, fingerprint, tokenise
from t5ray.data import tokens as tokens_module
from t5ray.data.token_cache import Chunk
from t5ray.errors import DataError, ModelError
from tests.data.conftest import SUMMARIZE

EOS = 1


def character_tokenizer(*, ends_with_eos: bool = True) -> PreTrainedTokenizerFast:
    """`a` is 3, `b` is 4 and so on; unknown characters are 2; EOS is 1, padding 0."""
    vocabulary = {"<pad>": 0, "</s>": EOS, "<unk>": 2, **{letter: 3 + n for n, letter in enumerate("abcdefghij")}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    if ends_with_eos:
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=8
    )


class CountingTokenizer:
    """Counts the texts that pass."""

    def __init__(self) -> None:
        self._tokenizer = character_tokenizer()
        self.eos_token_id = EOS
        self.num_texts = 0

    def __call__(self, text: list[str], **options: Any) -> Any:
        self.num_texts += len(text)
        return self._tokenizer(text, **options)


def _splits(train: list[str], validation: list[str] = ["ab"], test: list[str] = ["ba"]) -> Splits:  # noqa: B006
    """Every text is its own target; each row has a second reference."""

    def part(texts: list[str]) -> tuple[Example, ...]:
        return tuple(Example(text, (text, "hhh"), f"a.csv:{n}") for n, text in enumerate(texts))

    parts = part(train), part(validation), part(test)
    return Splits(
        *parts, task=SUMMARIZE, fingerprint=fingerprint(*parts), skipped=(), has_split_column=True, findings=()
    )


def _tokenise(splits: Splits, cache: Path, tokenizer: Any = None, **settings: Any) -> TokenisedData:
    model_max_tokens = settings.pop("model_max_tokens", None)
    return tokenise(
        splits,
        tokenizer or character_tokenizer(),
        DataConfig(**settings),
        tokenizer_fingerprint="characters",
        model_max_tokens=model_max_tokens,
        cache=cache,
    )


def _rows(split: TokenisedSplit) -> tuple[list[list[int]], list[list[int]]]:
    def side(ids: Any, offsets: Any) -> list[list[int]]:
        return [ids[start:end].tolist() for start, end in itertools.pairwise(offsets)]

    return side(split.input_ids, split.input_offsets), side(split.labels, split.label_offsets)


def test_ids_lie_end_to_end(tmp_path: Path) -> None:
    data = _tokenise(_splits(["abc", "b"]), tmp_path)
    assert data.train.input_ids.tolist() == [3, 4, 5, EOS, 4, EOS]
    assert data.train.input_offsets.tolist() == [0, 4, 6]
    assert data.train.labels.tolist() == data.train.input_ids.tolist()  # the first reference only
    assert (str(data.train.input_ids.dtype), str(data.train.input_offsets.dtype)) == ("int32", "int64")
    assert (len(data.train), data.train.num_tokens) == (2, 12)
    assert (data.train.input_lengths.tolist(), data.train.label_lengths.tolist()) == ([4, 2], [4, 2])
    assert data.validation_references == (("ab", "hhh"),)
    assert data.test_references == (("ba", "hhh"),)


def test_truncation_keeps_eos_and_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    splits = _splits(["abcdefghij", "ab", "abc"], ["abcd"], ["j"])
    data = _tokenise(splits, tmp_path, max_input_tokens=4, max_target_tokens=3)
    inputs, targets = _rows(data.train)
    assert inputs == [[3, 4, 5, EOS], [3, 4, EOS], [3, 4, 5, EOS]]
    assert targets == [[3, 4, EOS], [3, 4, EOS], [3, 4, EOS]]
    assert _rows(data.validation)[0] == [[3, 4, 5, EOS]]
    assert data.truncated_inputs == pytest.approx(2 / 5)
    assert data.truncated_targets == pytest.approx(3 / 5)
    assert (data.max_input_tokens, data.max_target_tokens) == (4, 3)
    assert "".join(capfd.readouterr()) == ""  # transformers' warning about long sequences


def test_default_lengths_are_the_99th_percentile_of_train(tmp_path: Path) -> None:
    train = ["a" * 5] * 50 + ["a" * 7] * 49 + ["a" * 9] * 1
    data = _tokenise(_splits(train, ["a" * 30]), tmp_path)
    assert data.max_input_tokens == 10  # 1 of 100 rows lies above the 99th value only where there are more than 100
    data = _tokenise(_splits(train * 2 + ["a" * 5], ["a" * 30]), tmp_path)
    assert data.max_input_tokens == data.max_target_tokens == 8
    assert data.truncated_inputs == pytest.approx(3 / 203)


def test_default_lengths_are_capped_by_the_model(tmp_path: Path) -> None:
    data = _tokenise(_splits(["a" * 50] * 10), tmp_path, model_max_tokens=20)
    assert data.max_input_tokens == data.max_target_tokens == 20
    data = _tokenise(_splits(["a" * 50] * 10), tmp_path, model_max_tokens=20, max_input_tokens=30)
    assert (data.max_input_tokens, data.max_target_tokens) == (30, 20)


def test_second_call_reuses(tmp_path: Path) -> None:
    splits = _splits(["abc", "b", "cd"])
    first, tokenizer = _tokenise(splits, tmp_path, max_input_tokens=3), CountingTokenizer()
    second = _tokenise(splits, tmp_path, tokenizer, max_input_tokens=3)
    assert (first.reused, second.reused, tokenizer.num_texts) == (False, True, 0)
    assert first.fingerprint == second.fingerprint
    assert all(_rows(getattr(first, name)) == _rows(getattr(second, name)) for name in ("train", "validation", "test"))
    assert (first.max_input_tokens, first.max_target_tokens) == (second.max_input_tokens, second.max_target_tokens)
    assert (first.max_input_tokens, first.max_target_tokens) == (3, 4)
    assert first.truncated_inputs == second.truncated_inputs == pytest.approx(1 / 5)
    assert first.truncated_targets == second.truncated_targets == 0


def test_anything_that_matters_makes_another_entry(tmp_path: Path) -> None:
    def key(splits: Splits, tokenizer: str = "x", model_max_tokens: int | None = None, **settings: Any) -> str:
        return tokenise(
            splits,
            character_tokenizer(),
            DataConfig(**settings),
            tokenizer_fingerprint=tokenizer,
            model_max_tokens=model_max_tokens,
            cache=tmp_path,
        ).fingerprint

    keys = [
        key(_splits(["abc"])),
        key(_splits(["abd"])),
        key(_splits(["abc"]), tokenizer="y"),
        key(_splits(["abc"]), model_max_tokens=9),
        key(_splits(["abc"]), max_input_tokens=9),
        key(_splits(["abc"]), max_target_tokens=9),
    ]
    assert len(set(keys)) == len(keys)
    assert key(_splits(["abc"]), path="elsewhere.csv", skip_bad_rows=True) == keys[0]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["train-input_ids.npy", "test-label_offsets.npy", "meta.json"])
@pytest.mark.parametrize("damage", [Path.unlink, _truncate, _flip, lambda path: path.write_bytes(b"")])
def test_damaged_entry_is_built_again(tmp_path: Path, file: str, damage: Any) -> None:
    splits = _splits(["abc", "b"])
    damage(tmp_path / _tokenise(splits, tmp_path).fingerprint / file)
    again = _tokenise(splits, tmp_path)
    assert not again.reused
    assert again.train.input_ids.tolist() == [3, 4, 5, EOS, 4, EOS]
    assert _tokenise(splits, tmp_path).reused
    assert len(list(tmp_path.iterdir())) == 1


def test_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("t5ray.data.token_cache._publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _tokenise(_splits(["abc"]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_builders_do_not_clash(tmp_path: Path) -> None:
    splits = _splits(["abc"] * 300)
    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda _: _tokenise(splits, tmp_path), range(8)))
    assert all(data.train.input_ids.tolist() == [3, 4, 5, EOS] * 300 for data in built)
    assert [path.name for path in tmp_path.iterdir()] == [built[0].fingerprint]


def test_chunks_join_seamlessly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = _splits(["a" * (n % 7 + 1) for n in range(50)])
    whole = _tokenise(splits, tmp_path / "whole", max_input_tokens=5)
    monkeypatch.setattr(tokens_module, "CHUNK_TEXTS", 8)
    chunked = _tokenise(splits, tmp_path / "chunked", max_input_tokens=5)
    assert _rows(whole.train) == _rows(chunked.train)


def test_empty_split(tmp_path: Path) -> None:
    data = _tokenise(_splits(["abc"], test=[]), tmp_path)
    assert (len(data.test), data.test.num_tokens) == (0, 0)
    assert _tokenise(_splits(["abc"], test=[]), tmp_path).reused


def test_tokenizer_without_eos(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must end every text with its EOS token, id 1"):
        _tokenise(_splits(["abc"]), tmp_path, character_tokenizer(ends_with_eos=False))


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="file: the token cache must be writable, but writing failed"):
        _tokenise(_splits(["abc"]), tmp_path / "file")


def test_arrays_are_mapped_and_pickle_out_of_band(tmp_path: Path) -> None:
    data = _tokenise(_splits(["abcdefghij"] * 1000), tmp_path)
    assert isinstance(data.train.input_ids.base, np.memmap)
    assert not data.train.input_ids.flags.writeable
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(data.train, protocol=5, buffer_callback=buffers.append)
    assert len(stream) < 2000 < data.train.input_ids.nbytes
    sizes = [array.nbytes for array in vars(data.train).values()]
    assert [buffer.raw().nbytes for buffer in buffers] == sizes
    restored = pickle.loads(stream, buffers=buffers)  # noqa: S301 (made above)
    assert np.shares_memory(restored.input_ids, data.train.input_ids)
    assert _rows(restored) == _rows(data.train)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_split_pickles_in_band_too(tmp_path: Path, protocol: int) -> None:
    data = _tokenise(_splits(["abc", "b"]), tmp_path)
    restored = pickle.loads(pickle.dumps(data.train, protocol=protocol))  # noqa: S301 (made here)
    assert _rows(restored) == _rows(data.train)


@given(st.lists(st.lists(st.integers(3, 9), max_size=8), max_size=8), st.integers(2, 9))
def test_cut(rows: list[list[int]], max_tokens: int) -> None:
    full = [[*row, EOS] for row in rows]
    chunk = Chunk(
        np.array([token for row in full for token in row], np.int32), np.array([len(row) for row in full], np.int64)
    ).cut(max_tokens)
    expected = [row if len(row) <= max_tokens else [*row[: max_tokens - 1], EOS] for row in full]
    assert chunk.ids.tolist() == [token for row in expected for token in row]
    assert chunk.lengths.tolist() == [len(row) for row in expected]


def test_labels_of_a_closed_set_are_never_cut(tmp_path: Path) -> None:
    splits = _splits(["a"] * 400 + ["a" * 9])
    closed = dataclasses.replace(splits, task=SUMMARIZE.model_copy(update={"closed_labels": True}))
    assert _tokenise(splits, tmp_path).max_target_tokens == 2
    assert _tokenise(closed, tmp_path).max_target_tokens == 10
