"""How fast does `cifar10/fast94` train, how much of the hardware does it use, and how soon does it know CIFAR-10?

    python benchmarks/cifar10_fast94.py [--threads 1] [--compile] [--epochs 5] [--runs 1] [--data-dir DIR]
        [--output results/benchmarks/cifar10-fast94.json]

Three parts. (1) Examples per second of `rebatch.train` beside a plain eager float32 script (see `side_by_side.py`): the
same network, batch 1024, fused SGD with Nesterov momentum, smoothed labels, a DataLoader that moves and flips image by
image. (2) The share of the machine's own rate of matrix products (4096 x 4096, the same precision and threads) that
convolutions and linear layers reach, and which operators take the time. (3) Trainings on CIFAR-10, evaluated after each
epoch: training loss, validation accuracy, seconds without evaluation; at the end test accuracy, over `--runs` seeds.
A short budget (`--epochs`) shrinks the whole schedule. 94 % takes the full 9.9 epochs and all 50,000 images; here are
45,000 to train on. Without CIFAR-10 in the data folder the third part is left out. Never run on a GPU so far.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from side_by_side import Clock, Race, random_images, tell
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from rebatch import Epochs, Execution, Steps, tasks, train
from rebatch.data.augment import AlternatingFlip, Translate
from rebatch.errors import RequestError
from rebatch.study.environment import environment
from rebatch.tasks.cifar import AIRBENCH_STATISTICS
from rebatch.training import evaluate

TASK = tasks.TASKS["cifar10/fast94"]
AIM, SIZE = 3.3, 4096
# Of the profile, by what the names of operators have in them.
KINDS = {
    "convolutions and products": ("conv", "mm", "addmm", "linear"),
    "batch norm": ("batch_norm",),
    "GELU": ("gelu",),
    "pooling": ("pool",),
    "copies and casts": ("copy", "_to_copy", "clone", "contiguous", "fill", "zero", "empty"),
    "optimizer and averages": ("foreach", "sgd", "lerp"),
}


def augment(image: Tensor) -> Tensor:
    """Move by up to 2 pixels, flip."""
    image = F.pad(image.float(), (2, 2, 2, 2), "reflect")
    down, right, mirrored = (int(torch.randint(0, limit, ())) for limit in (5, 5, 2))
    image = image[:, down : down + 32, right : right + 32]
    return image.flip(-1) if mirrored else image


def plain(model: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """A step of the plain script."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.5, momentum=0.85, nesterov=True, weight_decay=0.0153 / 11.5, fused=True)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets, label_smoothing=0.2).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def matrix_product_rate(precision: str) -> float:
    """Floating-point operations per second of a large product: the best of five."""
    a, b = (torch.randn(SIZE, SIZE, dtype=getattr(torch, precision)) for _ in range(2))
    a @ b
    times = []
    for _ in range(5):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2.0 * SIZE**3 / min(times)


def operations_per_example() -> float:
    """Of convolutions and linear layers, forward and backward."""
    model, images = TASK.build().train(), torch.randn(8, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    operations: int = counter.get_total_flops()
    return operations / len(images)


def where_time_goes(race: Race, execution: Execution) -> dict[str, float]:
    """Shares of the time that operators take themselves, in a run of four eager steps."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        recipe = TASK.recipe.replace(budget=Steps(4))
        list(train(TASK.model(0, race.data), race.data, recipe, seed=0, execution=execution, evaluations=1))
    shares = dict.fromkeys([*KINDS, "the rest"], 0.0)
    averages = profiler.key_averages()
    total = sum(each.self_cpu_time_total for each in averages)
    for each in averages:
        kind = next((kind for kind, parts in KINDS.items() if any(part in each.key for part in parts)), "the rest")
        shares[kind] += each.self_cpu_time_total / total
    return {kind: round(share, 3) for kind, share in shares.items()}


def training(seed: int, epochs: float, execution: Execution, data_dir: Path | None) -> dict[str, Any]:
    """One run: what it writes down after each epoch, its seconds without evaluation, its test accuracy."""
    data = TASK.data(seed, data_dir)
    model, recipe, clock = TASK.model(seed, data), TASK.recipe.replace(budget=Epochs(epochs)), Clock()
    watching: dict[str, Any] = {"execution": execution, "evaluations": round(epochs), "observers": [clock]}
    rows = [row for row in train(model, data, recipe, seed=seed, **watching) if "validation_accuracy" in row]
    steps = sorted(later - earlier for earlier, later in zip(clock.marks, clock.marks[1:], strict=False))
    # The few intervals with an evaluation in them are the longest; they count as a median step.
    usual = steps[: len(steps) - len(rows)]
    seconds = sum(usual) + statistics.median(usual) * (len(rows) + 1)
    test = evaluate(model, data.test, data.normalize, views=data.views, execution=execution)
    for row in rows:
        print(
            f"epoch {row['epoch']:.2f}: training loss {row['train_loss']:.3f}, "
            f"validation {row['validation_accuracy']:.2f} %",
            flush=True,
        )
    print(f"test {test.accuracy:.2f} %, {seconds:.0f} s of training", flush=True)
    return {"seed": seed, "seconds": seconds, "test_accuracy": test.accuracy, "rows": rows}


def trainings(runs: int, epochs: float, execution: Execution, data_dir: Path | None) -> dict[str, Any]:
    """So many runs in this process, with means and standard deviations."""
    done = [training(seed, epochs, execution, data_dir) for seed in range(runs)]
    found: dict[str, Any] = {"epochs": epochs, "execution": execution.describe(), "n": runs, "runs": done}
    for name in ("test_accuracy", "seconds"):
        values = [run[name] for run in done]
        spread = statistics.stdev(values) if runs > 1 else None
        found[name] = {"mean": statistics.mean(values), "standard_deviation": spread}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="try compiled executions too (a minute or two each)")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    data = random_images((AlternatingFlip(), Translate(2, fill="reflect")), AIRBENCH_STATISTICS)
    race = Race(TASK, data, augment, plain, warm_up=1, steps=2, repeats=5)
    print(f"torch {torch.__version__}, {platform.machine()}; {race.repeats} repeats of {race.steps} steps of 1024")
    best, case = race.compare(arguments.threads, compiled=arguments.compile)
    tell(case)
    peaks = {precision: matrix_product_rate(precision) for precision in ("float32", "bfloat16")}
    operations = operations_per_example()
    reached = case["examples_per_second"]["median"] * operations
    hardware = {
        "operations_per_example": operations,
        "matrix_products_per_second": peaks,
        "share_of_peak": reached / peaks[best.precision],
        "where_eager_time_goes": where_time_goes(race, msgspec.structs.replace(best, compile=False)),
    }
    print(f"{reached / 1e9:.0f} of {peaks[best.precision] / 1e9:.0f} GFLOP/s: {100 * hardware['share_of_peak']:.0f} %")
    print(", ".join(f"{kind} {100 * share:.0f} %" for kind, share in hardware["where_eager_time_goes"].items()))
    try:
        trained = trainings(arguments.runs, arguments.epochs, best, arguments.data_dir)
    except RequestError as error:
        print(f"not trained: {error}")
        trained = None
    if arguments.output is not None:
        options = f"--threads {arguments.threads}{' --compile' * arguments.compile} --epochs {arguments.epochs:g}"
        command = f"python benchmarks/cifar10_fast94.py {options} --runs {arguments.runs} --output {arguments.output}"
        about = {"command": command, **environment(), "aim": AIM}
        document = {**about, "case": case, "hardware": hardware, "trained": trained}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
