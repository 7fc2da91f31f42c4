"""Which batch size should this recipe have, on this machine? Speed, memory and steps to a loss, measured and weighed.

Steps are those of branches (`critical_batch`), at several moments of a run, since the critical batch size drifts. The
noise scale is told beside them where the model has one; nothing is decided by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rebatch.advice import Advice, Cut, best_cut, interpolated_lr, spaced, weigh
from rebatch.batching import total_steps
from rebatch.critical_batch import drawn_steps
from rebatch.data.sets import Splits
from rebatch.errors import RequestError
from rebatch.price import price
from rebatch.recipe import Recipe, Steps
from rebatch.recipe_file import to_table
from rebatch.rules.move import Move, Rule
from rebatch.study.branch import PATIENCE, Branches, branch_off, refuse_growth
from rebatch.study.capacity import Capacity, measure_capacity
from rebatch.study.capacity_worker import Workload
from rebatch.study.critical_batch import MeasuredCriticalBatch, fit_branches
from rebatch.tasks.task import Task
from rebatch.transfer import Change, Transfer, transfer

Array = NDArray[np.float64]
Tell = Callable[[str], None]

# Branches start from fresh weights and go to the loss that the recipe reaches in its own steps, or in as many as take
# so long, or in this many; where that is less than half of the run, others start again after a share of it.
LONGEST_SECONDS = 10.0
SHORTEST_BRANCH = 200
LATER = 0.3
# Batch sizes to compare reach from where examples per second are this share of the best ...
SLOWEST = 1 / 16
# ... to so many times the batch size from which on they grow no more: above it a step gets longer as fast as larger.
BEYOND_FULL_SPEED = 4
# The best batch size and its neighbors are looked at again with so many times the seeds, and rates from the best on: a
# few seeds choose among dozens of rates and sizes, and what looks best then was lucky. If another comes out best, its
# neighbors follow, so often.
CLOSER = 3
ROUNDS = 3
DRAWS = 400


@dataclass(frozen=True)
class Advised:
    """What was measured, what it says, and the recipe that follows.

    `advice` is None where nothing could be compared, `transfer` also where the recipe should stay as it is. `doubts`
    are sentences on what the answer does not know or leans on.
    """

    capacity: Capacity
    moments: tuple[MeasuredCriticalBatch, ...]
    advice: Advice | None
    transfer: Transfer | None
    doubts: tuple[str, ...]


def measure_advice(
    task: Task, data: Splits, workload: Workload, *, seeds: int = 3, tell: Tell = lambda _: None
) -> Advised:
    """Measure, then advise, for the recipe and the device of `workload`.

    Raises:
        RequestError: a schedule that listens to the run, or a batch that changes in size.
        RunError: the model does not fit into memory at all.
    """
    recipe = workload.recipe
    refuse_growth(recipe, "advice")
    capacity = measure_capacity(workload, on_progress=tell)
    doubts: list[str] = []
    if capacity.fit is None:
        doubts.append("fewer than two micro-batch sizes fit, so no times can be compared")
        return Advised(capacity, (), None, None, tuple(doubts))
    sizes = _sizes(capacity, recipe, len(data.train))
    tell(f"branches at batch sizes {', '.join(map(str, sizes))}")
    planned = moments_of(total_steps(recipe, len(data.train)), capacity.seconds(recipe.batch_size))
    measured = _moments(task, data, workload, planned, sizes, seeds, doubts, tell)
    fitted = [(branches, moment) for branches, moment in measured if moment.fit is not None]
    if not fitted:
        doubts.append("no batch size but the recipe's own reached its loss often enough to be compared")
        return Advised(capacity, tuple(moment for _, moment in measured), None, None, tuple(doubts))
    advice, moments = _closer(capacity, recipe, len(data.train), fitted, tell)
    doubts += _doubts(advice, moments, recipe)
    moved = None if advice.answer == "stay" else transferred(recipe, advice, moments, len(data.train))
    return Advised(capacity, tuple(moments), advice, moved, tuple(doubts))


def _sizes(capacity: Capacity, recipe: Recipe, examples: int) -> list[int]:
    """Batch sizes to branch at, the recipe's own among them."""
    timed = ((each.micro_batch_size, each.examples_per_second) for each in capacity.sizes)
    rates, own = {size: rate.estimate for size, rate in timed if rate is not None}, recipe.batch_size
    slowest = min(size for size, rate in rates.items() if rate >= SLOWEST * max(rates.values()))
    full = capacity.full_speed or own
    low = min(own, max(slowest, 2 if capacity.plain_batch_norm else 1))
    high = max(own, min(BEYOND_FULL_SPEED * full, examples // 4))
    if capacity.plain_batch_norm:
        high = max(own, min(high, max(rates)))
    return spaced(low, high, own)


def _moments(
    task: Task,
    data: Splits,
    workload: Workload,
    planned: Sequence[tuple[float, int]],
    sizes: Sequence[int],
    seeds: int,
    doubts: list[str],
    tell: Tell,
) -> list[tuple[Branches, MeasuredCriticalBatch]]:
    found = []
    for at, length in planned:
        try:
            branches = branch_off(
                task.model(workload.seed, data),
                data,
                workload.recipe,
                at=at,
                seeds=seeds,
                branch_steps=length,
                seed=workload.seed,
                execution=workload.execution,
                fresh=lambda seed: task.model(seed, data),
            )
        except RequestError as error:
            doubts.append(f"nothing was learned at {100 * at:.0f} % of the run: {error}")
            continue
        found.append((branches, fit_branches(branches, sizes)))
        tell(f"at step {branches.start.step:,}: critical batch size {found[-1][1].fit or 'unknown'}")
    return found


def _closer(
    capacity: Capacity,
    recipe: Recipe,
    examples: int,
    fitted: Sequence[tuple[Branches, MeasuredCriticalBatch]],
    tell: Tell,
) -> tuple[Advice, list[MeasuredCriticalBatch]]:
    """The advice when the batch sizes around the best were looked at again, and what was seen."""
    moments = [moment for _, moment in fitted]
    advice, seen = _weighed(capacity, recipe, examples, moments), set[int]()
    for _ in range(ROUNDS):
        compared, best = {option.batch_size for option in advice.options}, advice.best.batch_size
        sizes = sorted({best // 2, best, 2 * best} & compared - seen)
        if not sizes:
            break
        tell(f"again, with {CLOSER} times the seeds, at batch sizes {', '.join(map(str, sizes))}")
        moments = [_again(branches, moment, sizes) for (branches, _), moment in zip(fitted, moments, strict=True)]
        advice, seen = _weighed(capacity, recipe, examples, moments), seen | {*sizes}
    return advice, moments


def _again(branches: Branches, moment: MeasuredCriticalBatch, sizes: Sequence[int]) -> MeasuredCriticalBatch:
    """`moment` with more seeds at some batch sizes, from the rates that seemed best on.

    One that does not reach the loss counts with twice the steps after which it was given up.
    """
    rates = _rates(moment)
    again = [
        replace(branch, steps=branches.counted(branch))
        for size in sizes
        for branch in branches.best(size, lr=interpolated_lr(rates, size), seeds=CLOSER * branches.seeds)
    ]
    return replace(moment, again=(*moment.again, *again))


def _rates(moment: MeasuredCriticalBatch) -> dict[int, float]:
    """The best rate of each batch size, by its closest look."""
    both = (*moment.branches, *moment.again)
    return {branch.batch_size: branch.lr for branch in both if np.isfinite(branch.steps)}


def moments_of(total: int, step_seconds: float) -> list[tuple[float, int]]:
    """After which share of a run of `total` steps branches start, and how long the reference branch is.

    >>> moments_of(640, 0.001), moments_of(20_000, 0.01)
    ([(0.0, 640)], [(0.0, 1000), (0.3, 1000)])
    """
    length = min(total, max(SHORTEST_BRANCH, round(LONGEST_SECONDS / step_seconds)))
    first = [(0.0, length)]
    return first if total <= 2 * length else [*first, (LATER, length)]


def _weighed(capacity: Capacity, recipe: Recipe, examples: int, fitted: Sequence[MeasuredCriticalBatch]) -> Advice:
    """The recipe's own steps, each moment's share of them times its steps relative to the reference branch."""
    own, fit = recipe.batch_size, capacity.fit
    assert fit is not None
    low, high = (pick(branch.batch_size for moment in fitted for branch in moment.branches) for pick in (min, max))
    wanted = sorted({own, *(size for size in (2**power for power in range(32)) if low <= size <= high)})
    largest = max(size.micro_batch_size for size in capacity.sizes if size.outcome == "fits")
    cuts: dict[int, Cut] = {}
    for size in wanted:
        cut = best_cut(size, largest, capacity.seconds, unit=capacity.unit, whole=capacity.plain_batch_norm)
        if cut is None and size == own:  # today's step is what it is, also where it was too long to be timed
            cut = Cut(own, 1)
        if cut is not None:
            cuts[size] = cut
    sizes, total = sorted(cuts), total_steps(recipe, examples)
    drawn = sum(
        share * total * _relative_steps(moment, sizes, seed)
        for seed, (moment, share) in enumerate(zip(fitted, shares(fitted, total), strict=True))
    )
    assert isinstance(drawn, np.ndarray)
    lines = np.random.default_rng(len(fitted)).integers(len(fit.lines), size=DRAWS)
    update = capacity.update_seconds.estimate if capacity.update_seconds is not None else 0.0
    times = {
        size: update + np.array([_cut_seconds(capacity, cuts[size], int(line)) for line in lines]) for size in sizes
    }
    return weigh({size: drawn[:, place] for place, size in enumerate(sizes)}, times, cuts, own, total)


def shares(fitted: Sequence[MeasuredCriticalBatch], total: int) -> list[float]:
    """Which part of the run each moment speaks for: the first its own steps, the second the rest; one alone all."""
    if len(fitted) == 1:
        return [1.0]
    first = fitted[0].reference_steps / total
    return [first, 1.0 - first]


def _relative_steps(moment: MeasuredCriticalBatch, sizes: Sequence[int], seed: int) -> Array:
    """Steps over those of the recipe's own batch size and rate to the same loss, (draws, sizes).

    By the law of all branches, but where a batch size was looked at closely, by the mean of its own.
    """
    reached = [branch for branch in moment.branches if np.isfinite(branch.steps)]
    runs = [branch.batch_size for branch in reached], [branch.steps for branch in reached]
    drawn = drawn_steps(*runs, sizes, draws=DRAWS, seed=seed)
    rng = np.random.default_rng(seed + 1)
    own = np.array([min(steps, PATIENCE * moment.reference_steps) for steps in moment.own_steps])
    scatter = moment.fit.scatter if moment.fit is not None else 0.0
    today = own.mean() * np.exp(scatter / np.sqrt(len(own)) * rng.standard_normal(DRAWS))
    for place, size in enumerate(sizes):
        close = np.array([branch.steps for branch in moment.again if branch.batch_size == size])
        if len(close):
            error = close.std(ddof=1) / np.sqrt(len(close)) / close.mean()
            drawn[:, place] = close.mean() * np.exp(error * rng.standard_normal(DRAWS))
    return np.asarray(drawn / today[:, None])


def _cut_seconds(capacity: Capacity, cut: Cut, line: int) -> float:
    """Of a step's micro-batches in one round: the round's line, moved to what was seen at that size."""
    fit = capacity.fit
    assert fit is not None
    center = fit.seconds(cut.micro_batch_size).estimate
    scatter = fit.lines[line].seconds(cut.micro_batch_size) / center
    return cut.accumulation_steps * capacity.seconds(cut.micro_batch_size) * scatter


def transferred(recipe: Recipe, advice: Advice, fitted: Sequence[MeasuredCriticalBatch], examples: int) -> Transfer:
    """The recipe at the best batch size: its measured rate, and as many steps as it is expected to take."""
    factor = measured_lr_factor(fitted, advice.best.batch_size)
    steps = max(1, round(advice.best.steps.estimate))
    rate_why, length_why = (
        "the best rate of branches at this batch size",
        "steps to the same loss, as branches took them",
    )
    if advice.best.batch_size == recipe.batch_size:  # no transfer: the same batch size at another rate
        moved = recipe.with_lr(recipe.optimizer.lr * factor).replace(budget=Steps(steps))
        changes = (
            Change("optimizer.lr", recipe.optimizer.lr, moved.optimizer.lr, "measured_lr", rate_why),
            Change("budget", to_table(recipe)["budget"], to_table(moved)["budget"], "measured_steps", length_why),
        )
        cost = price(recipe, moved, examples)
        return Transfer(moved, 1.0, ("measured_lr", "measured_steps"), changes, (), cost)

    def rate(recipe: Recipe, _: Move) -> Recipe:
        return recipe.with_lr(recipe.optimizer.lr * factor)

    def length(recipe: Recipe, _: Move) -> Recipe:
        return recipe.replace(budget=Steps(steps))

    def ghosts(recipe: Recipe, move: Move) -> Recipe:
        ghost = recipe.ghost_batch_size
        return recipe if ghost is None else recipe.replace(ghost_batch_size=min(ghost, move.batch_size))

    rules = [
        Rule("measured_lr", ("optimizer.lr",), rate, lambda _: rate_why),
        Rule("measured_steps", ("budget",), length, lambda _: length_why),
        Rule("fitting_ghosts", ("ghost_batch_size",), ghosts, lambda _: "a ghost is no larger than the batch"),
    ]
    # The rate was measured against this recipe's own, whatever it was transferred from.
    return transfer(recipe.as_tuned(), batch_size=advice.best.batch_size, rules=rules, examples=examples)


def measured_lr_factor(fitted: Sequence[MeasuredCriticalBatch], batch_size: int) -> float:
    """Best rate at `batch_size` over the recipe's rate at the moment: the geometric mean over the moments."""
    factors = []
    for moment in fitted:
        factors.append(interpolated_lr(_rates(moment), batch_size) / moment.lr)
    return float(np.exp(np.mean(np.log(factors))))


def _doubts(advice: Advice, fitted: Sequence[MeasuredCriticalBatch], recipe: Recipe) -> list[str]:
    """What the answer leans on."""
    last = max(moment.step + moment.reference_steps for moment in fitted)
    found = [
        f"steps were counted at constant rates, in the first {last:,} steps, and compared to one validation loss; "
        "that a schedule with its drops, and so the final loss, follows in proportion is assumed"
    ]
    ends = advice.options[0].batch_size, advice.options[-1].batch_size
    if advice.best.batch_size in ends and advice.best.batch_size != recipe.batch_size:
        found.append(
            f"the best batch size lies at the end of those compared ({ends[0]} to {ends[1]}): it may lie beyond"
        )
    worst = max(moment.fit.scatter for moment in fitted if moment.fit is not None)
    if worst > 0.25:
        found.append(f"branches scatter by {100 * worst:.0f} % around the law of steps, so look at their table")
    sizes = [moment.fit.batch_size.estimate for moment in fitted if moment.fit is not None]
    if max(sizes) > 2 * min(sizes):
        found.append(
            f"the critical batch size moves from {sizes[0]:.3g} to {sizes[-1]:.3g} along the run: a batch that grows "
            "may do better than any fixed one"
        )
    return found
