"""How fast does `cifar10/resnet44` train, beside a plain PyTorch script? Examples per second, side by side in one run.

    python benchmarks/resnet44.py [--threads 1 2] [--compile] [--output results/benchmarks/resnet44.json]

The baseline is what most people write (see `side_by_side.py`): eager float32, fused SGD, batch 128, clipping at 5.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from side_by_side import Race, random_images, tell
from torch import Tensor, nn

from rebatch import tasks
from rebatch.data.augment import IMAGENET_STATISTICS, Flip, PadCrop
from rebatch.study.environment import environment

TARGET, AIM = 2.5, 3.3


def augment(image: Tensor) -> Tensor:
    """Pad, crop, flip."""
    image = F.pad(image, (4, 4, 4, 4), value=127)
    down, right, mirrored = (int(torch.randint(0, limit, ())) for limit in (9, 9, 2))
    image = image[:, down : down + 32, right : right + 32]
    return image.flip(-1) if mirrored else image


def plain(model: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """A step of the plain script."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--compile", action="store_true", help="try compiled executions too (a minute or two each)")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    data = random_images((PadCrop(padding=4, fill=127), Flip()), IMAGENET_STATISTICS)
    race = Race(tasks.TASKS["cifar10/resnet44"], data, augment, plain, warm_up=2, steps=6, repeats=9)
    print(f"torch {torch.__version__}, {platform.machine()}; {race.repeats} repeats of {race.steps} steps of 128")
    cases = [race.compare(threads, compiled=arguments.compile)[1] for threads in arguments.threads]
    for case in cases:
        tell(case)
    if arguments.output is not None:
        threads = " ".join(map(str, arguments.threads))
        options = " --compile" * arguments.compile + f" --threads {threads} --output {arguments.output}"
        command = f"python benchmarks/resnet44.py{options}"
        document = {"command": command, "seed": 0, **environment(), "target": TARGET, "aim": AIM, "cases": cases}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
