"""Do two worker processes beat one on a small task? Seconds of a whole study, side by side in one run.

    python benchmarks/jobs.py [--study hoffer-learning-rate] [--output results/benchmarks/jobs.json]

The same command with `--jobs 1` and `--jobs 2` takes turns, each time in an empty store, processes started anew; every
worker has one thread. The baseline is what a user gets who asks for one job.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rebatch.study.environment import environment

REPEATS = 3


def seconds(study: str, jobs: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rebatch", "study", "run", study, "--store", f"{folder}/store"]
        start = time.perf_counter()
        subprocess.run([*command, "--jobs", str(jobs), "--json"], check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="hoffer-learning-rate")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    pairs = [(seconds(asked.study, 1), seconds(asked.study, 2)) for _ in range(REPEATS)]
    ratios = [one / two for one, two in pairs]
    found = {
        "study": asked.study,
        "repeats": REPEATS,
        "seconds_one_job": [one for one, _ in pairs],
        "seconds_two_jobs": [two for _, two in pairs],
        "speed_up": statistics.median(ratios),
        "cores": os.cpu_count(),
        "command": f"python benchmarks/jobs.py --study {asked.study}",
        "environment": environment(),
    }
    print(f"{asked.study}: two jobs are {found['speed_up']:.2f} times as fast as one; by pair {ratios}")
    if asked.output:
        asked.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
