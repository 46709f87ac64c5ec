"""What precision `auto` means."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from t5ray.model import hardware
from t5ray.model.hardware import auto_precision, cpu_has_bf16
from t5ray.model.numeric import has_fast_bf16, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hardware, "GPU_DEVICES", ())
    for known in (cpu_has_bf16, has_fast_bf16):
        known.cache_clear()
    yield
    for known in (cpu_has_bf16, has_fast_bf16):
        known.cache_clear()


@pytest.mark.parametrize(
    ("flags", "meaning"),
    [("fpu avx512f", "fp32"), ("fpu avx512f avx512_bf16", "bf16"), ("amx_bf16 amx_tile", "bf16"), (None, "fp32")],
)
def test_on_a_cpu_it_is_bf16_where_there_is_hardware_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, meaning: str
) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    assert (auto_precision(0), resolve_precision("auto", CPU)) == (meaning, meaning)
    assert auto_precision(1) == meaning  # there is no GPU here to ask
    assert [resolve_precision(asked, CPU) for asked in ("fp32", "bf16", "bf16_pure")] == ["fp32", "bf16", "bf16_pure"]


@pytest.mark.parametrize(("capability", "meaning"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_on_a_gpu_it_is_bf16_from_ampere_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], meaning: str
) -> None:
    monkeypatch.setattr(hardware, "GPU_DEVICES", (str(tmp_path),))  # something is there
    monkeypatch.setattr("t5ray.model.numeric.default_device", lambda: GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert (auto_precision(0.5), resolve_precision("auto", GPU)) == (meaning, meaning)


@pytest.mark.parametrize(("flags", "meaning"), [("fpu", "fp32"), ("amx_bf16", "bf16")])
def test_beside_a_gpu_it_is_the_cpus_for_who_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, meaning: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware, "GPU_DEVICES", (str(tmp_path),))
    monkeypatch.setattr("t5ray.model.numeric.default_device", lambda: GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0) if meaning == "fp32" else (7, 5))
    assert auto_precision(0) == meaning
