"""One model on one device, whose micro-batches are tried and timed by the parts of our own loop."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.nn.ghost_batch_norm import plain_batch_norms
from rebatch.optimizers import set_lr
from rebatch.recipe import Steps
from rebatch.study import memory
from rebatch.study.capacity_worker import Check, Checked, Ready, Time, Timed, Workload
from rebatch.tasks import find_task
from rebatch.training.continuing import Beginning
from rebatch.training.gradients import Cutting, cross_entropy, one_ghost_batch_size
from rebatch.training.run import Run, place

# The update of a small model takes microseconds: so many are timed at once.
UPDATES = 20
# A check that has taken so many seconds takes no further step.
PATIENCE = 20.0


class Bench:
    """Answers checks and timings, of any sizes in any order.

    The learning rate is zero: an update takes as long as any, and all sizes are timed at the same weights.
    """

    def __init__(self, workload: Workload, known_limit: int | None) -> None:
        if workload.threads is not None:
            torch.set_num_threads(workload.threads)
        self._workload, self._recipe = workload, workload.recipe.replace(budget=Steps(10**6))
        if (piece := workload.recipe.piece_size) is not None:
            raise RequestError(
                "micro-batch sizes cannot be measured with a gradient_penalty, which passes its own pieces, of "
                f"{piece} examples; leave it out"
            )
        self._memory = CudaMemory() if torch.cuda.is_available() else CpuMemory()
        limit = self._memory.limit(workload.memory_limit, known_limit)
        self._world = World(device=self._memory.device)
        torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports 70 MB of Python, which no size should count
        task = find_task(workload.task).sized(workload.data_dir)
        self._data = task.data(workload.seed, workload.data_dir).to(self._world.device)
        self._memory.forget_most_held()  # first: what loading left in the heap is not held for long
        self._examples, self._baseline = len(self._data.train), self._memory.held()
        self._model = task.model(workload.seed, self._data)
        place(self._model, self._recipe, workload.seed, workload.execution, self._world)
        self._ghost = one_ghost_batch_size(self._model)
        self._run: Run | None = None
        self._micro, self._seen = 0, 0
        plain = plain_batch_norms(self._model)
        self.ready = Ready(
            device=self._memory.name,
            threads=torch.get_num_threads(),
            examples=self._examples,
            limit=limit,
            baseline=self._baseline,
            unit=self._ghost or 1,
            least=self._ghost or (2 if plain else 1),
            plain_batch_norm=bool(plain),
        )

    def answer(self, request: object) -> Checked | Timed:
        """Do what was asked."""
        match request:
            case Check(size=size, steps=steps):
                return self.check(size, steps)
            case Time(size=size, count=count):
                return self.time(size, count)
        raise AssertionError(request)

    def check(self, size: int, steps: int) -> Checked:
        """A step of one micro-batch, then steps of two: these begin with gradients and the optimizer's state there.

        Where steps take long there are fewer, but two at least.
        """
        self._prepare(size)
        self._memory.forget_most_held()
        self._compute([self._indices(size)])
        self._update(1)
        times: list[float] = []
        while len(times) + 1 < steps and sum(times) < PATIENCE:
            step = self._indices(2 * size)
            times.append(self._seconds(partial(self._compute, [step])))
            self._update(1)
        most = self._memory.most_held()
        above = None if most is None or self._baseline is None else max(0, most - self._baseline)
        return Checked(above, min(times) / 2)

    def time(self, size: int, count: int) -> Timed:
        """The mean of `count` micro-batches after one that warms up, and of some updates."""
        if self._micro < size:  # a run that is cut into larger ones takes this size whole too
            self._prepare(size)
        warm, *steps = [self._indices(size) for _ in range(count + 1)]
        self._compute([warm])
        micro_batches = self._seconds(lambda: self._compute(steps))
        return Timed(micro_batches / count, self._seconds(lambda: self._update(UPDATES)) / UPDATES)

    def _prepare(self, size: int) -> None:
        """A run whose steps are cut into micro-batches of `size`; the last one goes first, for its memory's sake."""
        if self._micro == size:
            return
        self._run, self._micro = None, size
        seed, execution = self._workload.seed, self._workload.execution
        cutting = Cutting(self._ghost, size, self._world)
        self._run = Run(self._model, self._data, self._recipe, seed, cross_entropy, execution, cutting, ())
        self._run.begin(Beginning())
        set_lr(self._run.optimizer, 0.0)
        self._run.batches.batch(0, self._indices(1))  # makes the epoch's tables of draws, which are no size's own

    def _indices(self, examples: int) -> Tensor:
        """The next examples in the order of one epoch, which starts again where it ends."""
        assert self._run is not None
        places = torch.arange(self._seen, self._seen + examples, device=self._world.device) % self._examples
        self._seen = (self._seen + examples) % self._examples
        return self._run.order(0)[places]

    def _compute(self, steps: Sequence[Tensor]) -> None:
        """Gradients of steps, examples that must be decoded being decoded ahead as in a run."""
        assert self._run is not None
        self._run.batches.expect((0, piece) for step in steps for piece in torch.split(step, self._micro))
        for step in steps:
            self._run.gradient.compute(0, step, len(step))

    def _update(self, count: int) -> None:
        """What a step does after its gradient is complete."""
        assert self._run is not None
        for step in range(count):
            self._run.clip(0)
            self._run.optimizer.step()
            self._run.average.after_step(step + 1)

    def _seconds(self, do: Callable[[], None]) -> float:
        self._memory.wait()
        start = time.perf_counter()
        do()
        self._memory.wait()
        return time.perf_counter() - start


class CpuMemory:
    """What this process holds; nothing is known and nothing limited where the system is not Linux."""

    device, name = torch.device("cpu"), "cpu"

    def limit(self, asked: int | None, known: int | None) -> int | None:
        """Let no more than `asked`, or than what is free less a margin, be held; gives the limit."""
        if not memory.can_limit():
            if asked is not None:
                raise RequestError("a memory limit on the CPU needs Linux; leave it out")
            return None
        limit = known or _allowed(asked, memory.available() + memory.held())
        memory.hold_at_most(limit)
        return limit

    def held(self) -> int | None:
        """Bytes held now."""
        return memory.held() if memory.can_limit() else None

    def forget_most_held(self) -> None:
        """Let `most_held` start again."""
        memory.forget_most_held()

    def most_held(self) -> int | None:
        """Bytes held at most."""
        return memory.most_held() if memory.can_limit() else None

    def wait(self) -> None:
        """Nothing is under way."""


class CudaMemory:
    """What torch's allocator holds of the GPU, in use or kept for use: pieces that do not fit together count."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.name = f"{self.device}, {torch.cuda.get_device_name(self.device)}"

    def limit(self, asked: int | None, known: int | None) -> int:
        """As on the CPU; torch's allocator keeps to it."""
        free, total = torch.cuda.mem_get_info(self.device)
        limit = known or _allowed(asked, free)
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), self.device)
        return limit

    def held(self) -> int:
        """Bytes held now."""
        return torch.cuda.memory_reserved(self.device)

    def forget_most_held(self) -> None:
        """Let go what is only kept, and let `most_held` start again."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def most_held(self) -> int:
        """Bytes held at most."""
        return torch.cuda.max_memory_reserved(self.device)

    def wait(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self.device)


def _allowed(asked: int | None, free: int) -> int:
    if asked is not None and asked > free:
        raise RequestError(
            f"the memory limit must be at most what is free now, {memory.show_bytes(free)}, "
            f"got {memory.show_bytes(asked)}; ask for less, or leave it out for {1 - memory.MARGIN:.0%} of that"
        )
    return int((1 - memory.MARGIN) * free) if asked is None else asked
