"""What this machine is fast at. Imports torch only where there is a GPU to ask about: a driver seldom needs it."""

from functools import cache
from pathlib import Path

GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""What a GPU's driver puts there: NVIDIA's, that of Windows' Linux, AMD's."""

CPUINFO = Path("/proc/cpuinfo")


@cache
def cpu_has_bf16() -> bool:
    """Say whether the CPU multiplies bfloat16 matrices in hardware of its own."""
    flags = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def auto_precision(gpus: float) -> str:
    """Return what precision `auto` means here with so many GPUs: `bf16` where what then computes is fast at it.

    With GPUs, on a machine that has none, its CPU is asked.
    """
    if gpus and any(Path(device).exists() for device in GPU_DEVICES):
        from t5ray.model.numeric import device_with, resolve_precision

        return resolve_precision("auto", device_with(gpus))
    return "bf16" if cpu_has_bf16() else "fp32"
