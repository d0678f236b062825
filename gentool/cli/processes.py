"""Which of the processes of a launcher (`accelerate launch`, `torchrun`) this one is."""

import os
from datetime import timedelta


def several() -> bool:
    """Whether a launcher started more processes than this one."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def rank() -> int:
    """Its number; 0 is the main one."""
    return int(os.environ.get("RANK", 0)) if several() else 0


def first_to_fail() -> bool:
    """Whether no other process failed before this one: those after it fail alike, or of its end.

    The launcher's own store counts them; it outlives the processes.
    """
    from torch.distributed import TCPStore

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"gentool/failed/{attempt}", 1) == 1)
    except (KeyError, ValueError, RuntimeError):
        return True  # no store: better told twice than not at all
