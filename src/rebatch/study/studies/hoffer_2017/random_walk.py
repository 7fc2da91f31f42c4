"""`random-walk`: does a particle in a Gaussian random field travel as (log t)^(2/alpha), and on a plain as sqrt(t)?"""

import math
from collections.abc import Mapping

from rebatch.study.claims import Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import RandomWalk
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import claim
from rebatch.tasks.task import Task

# Scale of the potential, sites, and logarithms of the times: late enough for the law (the barriers between neighbours
# must not count), early enough not to meet the edge of the lattice.
FIELDS: dict[float, tuple[float, int, tuple[float, float]]] = {
    1.0: (3.0, 80_001, (40.0, 220.0)),
    1.5: (8.0, 30_001, (100.0, 600.0)),
}
FLAT = "flat"

# The law is asymptotic: barriers of finite height bend it by a few percent of the exponent at these times.
WITHIN = 0.1


def random_walk_design(task: Task, scale: Scale) -> Design:
    """Walkers in fractional Brownian potentials of two exponents, and on a flat one."""
    walkers = {"quick": 20, "cpu": 200, "paper": 1000}[scale]
    arms = [
        Arm(
            name=_name(alpha),
            recipe=task.recipe,
            probe=RandomWalk(alpha=alpha, scale=steepness, sites=sites, walkers=walkers, log_times=log_times, points=8),
            note=f"{walkers} walkers on {sites:,} sites, log t from {log_times[0]:g} to {log_times[1]:g}",
        )
        for alpha, (steepness, sites, log_times) in FIELDS.items()
    ]
    flat = RandomWalk(alpha=None, sites=2**13 + 1, walkers=2, log_times=(2.0, math.log(1e5)))
    arms.append(Arm(name=FLAT, recipe=task.recipe, probe=flat))
    why = f"The law is asymptotic; within {100 * WITHIN:g} % of its exponent at the times that the lattice allows."
    claims = [
        claim(
            f"walk-{alpha:g}",
            f"At alpha = {alpha:g} the distance grows as (log t)^(2/alpha): exponent {2 / alpha:.3g} in log t",
            Quantity(f"exponent:{_name(alpha)}", low=2 / alpha * (1 - WITHIN), high=2 / alpha * (1 + WITHIN)),
            expected=2 / alpha,
            source="Hoffer et al. 2017, section 3; Sinai 1982, Bouchaud and Georges 1990",
            why=why,
        )
        for alpha in FIELDS
    ]
    claims.append(
        claim(
            "walk-flat",
            "On a flat potential it grows as sqrt(t): exponent 1/2 in t",
            Quantity(f"exponent:{FLAT}", low=0.49, high=0.51),
            expected=0.5,
            source="Einstein 1905",
            why="Exact for the lattice; every seed gives the same number.",
        )
    )
    return Design(arms=tuple(arms), claims=tuple(claims), seeds={"quick": 3, "cpu": 10, "paper": 20}[scale])


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """The fitted exponents."""
    return {f"exponent:{name}": run.metrics["exponent"] for name, run in runs.items()}


def _name(alpha: float) -> str:
    return f"alpha = {alpha:g}"


RANDOM_WALK = Study(
    name="random-walk",
    title="How far does a particle get in a random field?",
    source="Hoffer, Hubara, Soudry 2017, section 3",
    design=random_walk_design,
    quantities=quantities,
    task="simulation",
)
