"""Which device to compute on, and in which precision."""

import os
from pathlib import Path

import torch

from gentool.errors import MachineError, UsageError, nearest

PRECISIONS = ("auto", "fp32", "bf16")

# Gradients of unlikely words fall below the least normal number, and a CPU takes a hundred times as
# long for a product of such (benchmarks/denormals.py): they count as 0. Said on import, as torch's
# threads are as the one that makes them, with its first large operation.
torch.set_flush_denormal(True)

# torch lets a GPU round what convolutions multiply to 10 bits. Whoever asks for fp32 gets it.
torch.backends.cudnn.allow_tf32 = False


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one and `accelerate launch --cpu` was not asked for. Raises
    UsageError for a device that is not there, MachineError for a GPU that cannot be used."""
    if name == "auto":
        if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"):
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    absent = UsageError(f"no device {name!r} here", "--device auto, cpu, cuda or mps")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise absent from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        if device.type == "cuda" and (device.index or 0) < torch.cuda.device_count():  # it is full
            told = next(iter(str(error).splitlines()), "")
            raise MachineError(f"device {name!r} cannot be used: {told}", "nvidia-smi") from None
        raise absent from None
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware; elsewhere bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu_info = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpu_info.is_file():
        flags = cpu_info.read_text()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def use_bf16(precision: str, device: torch.device) -> bool:
    """What `--precision auto|fp32|bf16` means on this device. Raises UsageError.

    `auto` is bf16 on a GPU that multiplies it. On a CPU that does, training is up to a quarter
    faster by it (benchmarks/precision.py), but what a seed draws would differ from one CPU to the
    next by more than rounding; so there it is fp32.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}", nearest(precision, PRECISIONS))
    return precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and has_bf16(device)
    )
