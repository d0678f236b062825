"""Many lines through `gentool decode mask-predict`: rate, memory, order, and what they mean.

    python benchmarks/stream.py --num 100000

Captions of the test split, endless to the command; each output is compared with its own source,
and, as a control, with the source of the line after it.
"""

import argparse
import os
import subprocess
import threading
import time
from pathlib import Path

from results import append

from gentool.data.scenes import Scenes
from gentool.evaluate.pairs import scene_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=100_000)
    n = parser.parse_args().num
    source = Scenes("test")
    sources = [source[i].caption for i in range(n)]
    run = subprocess.Popen(
        ["gentool", "decode", "mask-predict", "--quiet"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def feed() -> None:
        assert run.stdin
        run.stdin.writelines(f"{line}\n" for line in sources)
        run.stdin.close()

    threading.Thread(target=feed, daemon=True).start()
    assert run.stdout
    outputs, memory, began = [], [], 0.0
    for line in run.stdout:
        began = began or time.perf_counter()
        outputs.append(line.rstrip("\n"))
        if len(outputs) * 10 // n > len(memory):
            memory.append(resident(run.pid))
    seconds = time.perf_counter() - began
    assert run.wait() == 0 and len(outputs) == n
    right = scene_accuracy(sources, outputs)
    other = scene_accuracy(sources[1:] + sources[:1], outputs)
    facts = {"n": n, "seed": 0, "split": "test"}
    figures = [
        {"metric": "lines per second", "value": round(n / seconds, 1), **facts},
        {"metric": "MiB after a tenth", "value": round(memory[0]), **facts},
        {"metric": "MiB at the end", "value": round(memory[-1]), **facts},
        {"metric": "scene_accuracy", "value": right, **facts},
        {"metric": "scene_accuracy[sources of other lines]", "value": other, **facts},
    ]
    append("stream", f"python benchmarks/stream.py --num {n}", figures)
    print(*figures, sep="\n")


def resident(pid: int) -> float:
    """MiB of memory that the process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


main()
