"""A study of your own: `rebatch study run examples/my_study.py:warmup --task digits`.

A study turns a task into arms and claims before anything runs. Here: does a warm-up help the linear rule at kappa 16?
"""

import msgspec

from rebatch import transfer
from rebatch.study.claims import Claim, Greater
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.tasks import Task


def design(task: Task, scale: Scale) -> Design:
    large = transfer(task.recipe, batch_size=16 * task.recipe.batch_size, rules=["linear"]).recipe
    warm = large.replace(schedule=msgspec.structs.replace(large.schedule, warmup=0.2))
    return Design(
        arms=(Arm(name="linear", recipe=large), Arm(name="linear+warmup", recipe=warm)),
        claims=(
            Claim(
                id="warmup",
                statement="A warm-up over the first fifth helps the linear rule",
                source="Goyal et al. 2017",
                test=Greater("linear+warmup", "linear", 0.3),
                expected=None,
                why="0.3 points are what we would add a line to a recipe for; 5 seeds for a first look.",
            ),
        ),
        seeds=5 if scale == "quick" else 20,
    )


warmup = Study(
    name="warmup", title="Does a warm-up help the linear rule?", source="examples/my_study.py", design=design
)
