"""How far have the weights travelled when the small batch drops its rate? Thresholds for `schedule.DistanceDrop`.

    python examples/distances_at_drops.py --task digits

Trains the task's reference recipe over seeds that no study uses and prints the mean weight distance at each milestone.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

from rebatch.batching import total_steps
from rebatch.measure import WeightDistance
from rebatch.schedule import MultiStep
from rebatch.tasks import find_task
from rebatch.training import train

SEEDS = range(1000, 1005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="digits")
    parser.add_argument("--data-dir", type=Path, default=None)
    asked = parser.parse_args()
    task = find_task(asked.task)
    schedule = task.recipe.schedule
    if not isinstance(schedule, MultiStep):
        raise SystemExit(f"{task.name} has no milestones: its schedule is {schedule}")
    total = total_steps(task.recipe, task.train)
    wanted = [round(milestone * total) for milestone in schedule.milestones]
    distances: list[list[float]] = []
    for seed in SEEDS:
        # As many evaluations as make a row fall on every milestone.
        rows = train(
            task.model(seed),
            task.data(seed, asked.data_dir),
            task.recipe,
            seed=seed,
            observers=[WeightDistance()],
            evaluations=20,
        )
        found = {int(row["step"]): row["weight_distance"] for row in rows}
        distances.append([found[step] for step in wanted])
    means = [round(fmean(column), 2) for column in zip(*distances, strict=True)]
    print(json.dumps({"task": task.name, "seeds": list(SEEDS), "steps": wanted, "distances": means}))


if __name__ == "__main__":
    main()
