"""`hoffer-optimizers`: does simple SGD generalize better than Adam, RMSprop and Adagrad? (claim H25)"""

from rebatch.recipe import Adagrad, AdamW, Optimizer, RmsProp, Sgd
from rebatch.study.claims import AllOf, Greater
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.studies.hoffer_2017.common import MARGIN, OTHER_SEEDS, claim, seeds_of
from rebatch.tasks.task import Task

# Every optimizer has the same number of trials: its usual rate and two steps of three to either side.
TRIALS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
TUNING_SEEDS, FIRST_TUNING_SEED = 3, 1000

# Where the recipe of a task has none.
MOMENTUM = 0.9

# Adaptive ones; the usual rates are those that their papers and torch propose.
ADAPTIVE: dict[str, Optimizer] = {
    "adam": AdamW(lr=1e-3, weight_decay=0.0),
    "rmsprop": RmsProp(lr=1e-3),
    "adagrad": Adagrad(lr=1e-2),
}


def optimizers_design(task: Task, scale: Scale) -> Design:
    """Each optimizer at its own best of five rates, chosen on the validation split over seeds of their own."""
    base = task.recipe.optimizer.lr
    # No weight decay for any: coupled and decoupled decay of one size are not alike, so one of them would be favored.
    beta = getattr(task.recipe.optimizer, "momentum", 0.0) or MOMENTUM
    # With momentum m a gradient moves the weights by lr / (1 - m), so that is the usual rate without.
    momentum, plain = Sgd(lr=base, momentum=beta), Sgd(lr=base / (1 - beta))
    tuned = {"sgd+momentum": momentum, "sgd": plain, **ADAPTIVE}
    arms: list[Arm] = []
    for name, optimizer in tuned.items():
        candidates = [
            Arm(
                name=f"{name} lr x {factor:.3g}",
                recipe=task.recipe.replace(optimizer=optimizer).with_lr(optimizer.lr * factor),
                seeds=TUNING_SEEDS,
                first_seed=FIRST_TUNING_SEED,
                candidate=True,
            )
            for factor in TRIALS
        ]
        best = tuple(arm.name for arm in candidates)
        arms += [*candidates, Arm(name=name, recipe=candidates[2].recipe, best_of=best)]
    why = f"Margin {MARGIN} points: nobody would change the optimizer for less. Seeds: {OTHER_SEEDS}."
    claims = (
        claim(
            "H25",
            "SGD with momentum does better than Adam, RMSprop and Adagrad, each at its own best rate",
            AllOf(tuple(Greater("sgd+momentum", name, MARGIN) for name in ADAPTIVE)),
            why=why,
        ),
        claim(
            "H25-not-worse",
            "It does no worse than any of them",
            AllOf(tuple(Greater("sgd+momentum", name, -MARGIN) for name in ADAPTIVE)),
            why=why,
        ),
    )
    return Design(arms=tuple(arms), claims=claims, seeds=seeds_of(task, scale, cpu=3))


OPTIMIZERS = Study(
    name="hoffer-optimizers",
    title="Does simple SGD generalize better than adaptive methods?",
    source="Hoffer, Hubara, Soudry 2017, introduction",
    design=optimizers_design,
)
