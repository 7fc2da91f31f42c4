"""Does ghost batch norm cost more than torch's own? Forward and backward of each, side by side in one process.

    OMP_NUM_THREADS=1 python benchmarks/ghost_batch_norm.py --output results/benchmarks/ghost-batch-norm.json

Every repeat times plain batch norm, ghost batch norm, and a plain loop over the ghosts, one right after the other, and
divides by the plain time of that repeat. Printed are the medians of these ratios, with their quartiles.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebatch.files import write_whole
from rebatch.nn import GhostBatchNorm2d

SHAPE = (1024, 64, 16, 16)
LIMIT = 1.15
GHOSTS = (16, 128)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def loop_over_ghosts(plain: nn.BatchNorm2d, ghost_batch_size: int) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.cat([plain(ghost) for ghost in torch.split(x, ghost_batch_size)])


def seconds(layer: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    x.grad = None
    start = time.perf_counter()
    torch.autograd.backward(layer(x), grad)
    return time.perf_counter() - start


def summary(ratios: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def measure(ghost_batch_size: int, layout: str, dtype: str, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randn(SHAPE).to(dtype=DTYPES[dtype], memory_format=LAYOUTS[layout]).requires_grad_()
    grad = torch.randn_like(x)
    plain, ghost = nn.BatchNorm2d(SHAPE[1]), GhostBatchNorm2d(SHAPE[1], ghost_batch_size)
    layers: list[Callable[[Tensor], Tensor]] = [
        plain,
        ghost,
        loop_over_ghosts(nn.BatchNorm2d(SHAPE[1]), ghost_batch_size),
    ]
    for layer in layers:
        seconds(layer, x, grad)
    times = [[seconds(layer, x, grad) for layer in layers] for _ in range(repeats)]
    return {
        "ghost_batch_size": ghost_batch_size,
        "layout": layout,
        "dtype": dtype,
        "plain_ms": round(1e3 * statistics.median(row[0] for row in times), 1),
        "ghost_ratio": summary([row[1] / row[0] for row in times]),
        "loop_ratio": summary([row[2] / row[0] for row in times]),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def line(case: dict[str, Any]) -> str:
    ratios = "   ".join(
        "{median:5.2f} ({low:.2f} to {high:.2f})".format(**case[name]) for name in ("ghost_ratio", "loop_ratio")
    )
    return f"{case['dtype']:9} {case['layout']:14} {case['ghost_batch_size']:5}   {case['plain_ms']:8.1f}   {ratios}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the outcome to this JSON file")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--date", default=date.today().isoformat(), help="the date to write down (default: today)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts = {"machine": cpu_name(), "threads": args.threads, "torch": torch.__version__, "shape": list(SHAPE)}
    print(*(f"{name}: {value}" for name, value in facts.items()), f"repeats: {args.repeats}", sep=", ")
    print("dtype     layout          ghost   plain ms   ghost / plain         loop / plain")
    cases = []
    for dtype, layout, ghost in itertools.product(DTYPES, LAYOUTS, GHOSTS):
        cases.append(measure(ghost, layout, dtype, args.repeats))
        print(line(cases[-1]), flush=True)
    worst = max(case["ghost_ratio"]["median"] for case in cases)
    print(f"worst of {len(cases)}: {worst:.2f} (limit {LIMIT})")
    if args.output:
        command = f"python benchmarks/ghost_batch_norm.py --repeats {args.repeats} --threads {args.threads}"
        record = {
            "command": command,
            "date": args.date,
            **facts,
            "repeats": args.repeats,
            "limit": LIMIT,
            "worst": worst,
        }
        write_whole(args.output, (json.dumps({**record, "cases": cases}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
