"""The training loop: a generator of measured rows. Stopping, logging, storing are the caller's `for`."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from torch import nn

from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.execution import Execution
from rebatch.observation import Observer, require_observers
from rebatch.recipe import Recipe, require_recipe
from rebatch.training.checkpoint import Checkpointer
from rebatch.training.continuing import EarlierRun, beginning
from rebatch.training.gradients import SummedLoss, choose_cutting, cross_entropy
from rebatch.training.run import Row, Run, place


def train(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    *,
    seed: int,
    loss: SummedLoss = cross_entropy,
    execution: Execution | None = None,
    micro_batch_size: int | None = None,
    world: World | None = None,
    observers: Sequence[Observer] = (),
    evaluations: int = 20,
    checkpoint: Checkpointer | None = None,
    start_from: EarlierRun | None = None,
    allow_batch_norm: bool = False,
) -> Iterator[Row]:
    """Train `model` in place on `data.train` as `recipe` says, yielding rows while it runs.

    Nothing happens before the first row is asked for, and a caller that stops asking stops the run. The model is moved
    to `world.device` and gets ghost batch norm if the recipe sets `ghost_batch_size`. The order of the examples and
    their augmentation depend on `seed` alone; torch's global generator is seeded in every step, for dropout.

    Args:
        loss: the summed loss of a micro-batch; the loop divides by the step's examples over all ranks.
        execution: precision, memory format, compilation; plain float32 if left out.
        micro_batch_size: the most examples of one forward pass, for memory; the run does not depend on it.
        observers: watch gradients and add to the rows; the run does not depend on them.
        evaluations: how many evenly spaced rows carry validation results.
        checkpoint: saves the state now and then, and resumes from it: bit for bit on the same machine and threads.
        start_from: goes on from the checkpoint of a run by another recipe, of the same model (fresh, as that run got
            it), data and seed: the rest of its epoch in the same order, its optimizer's state carried over. The budget
            is that of the whole run. Where `checkpoint` has a state already, that one is resumed.
        allow_batch_norm: accept that plain batch norm sees micro-batches or ranks instead of the batch.

    Raises:
        RequestError: a batch that the data cannot fill, a cut that would change the run, or an earlier run that this
            one cannot go on from.
    """
    require_recipe(recipe)
    require_observers("observers", observers)
    world, execution = world or World(), execution or Execution()
    examples = len(data.train)
    begun = beginning(recipe, examples, seed, checkpoint=checkpoint, start_from=start_from)
    place(model, recipe, seed, execution, world)
    cutting = choose_cutting(
        model, recipe, examples, micro_batch_size, world, allow_batch_norm=allow_batch_norm, start=begun.start
    )
    run = Run(model, data.to(world.device), recipe, seed, loss, execution, cutting, observers, begun.start)
    log_spaced, even = (set(steps) for steps in run.row_steps(evaluations))
    with closing(run):
        run.begin(begun)
        del begun  # what it holds may be as large as the model
        for step in range(run.first, run.total):
            run.seed_torch(step)
            epoch, start, stop = run.bounds(step)
            lr = run.prepare(step)
            loss_sum = run.gradient.compute(epoch, run.order(epoch)[start:stop], run.divisor(stop - start))
            run.loss_sum += loss_sum
            run.show(step, stop - start, lr, loss_sum)
            run.gradient.add_penalty()
            run.clip(step)
            run.optimizer.step()
            run.average.after_step(step + 1)
            if row_due := step + 1 in log_spaced or step + 1 in even:
                row = run.row(step + 1, lr, evaluated=step + 1 in even)
                if step + 1 == run.total and "diverged" not in row:
                    run.finish()
                yield row
                if "diverged" in row:
                    return
            # Several ranks have a sum of losses each: rank 0 can speak for all only where a row was just written.
            if checkpoint is not None and world.rank == 0 and (row_due or world.size == 1):
                checkpoint.save_if_due(partial(run.state, step + 1))
