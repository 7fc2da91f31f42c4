"""A study small enough to be killed and run again in a test: three arms on digits, one of which diverges."""

from rebatch.recipe import Epochs
from rebatch.study.claims import Claim, Greater
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.tasks import Task


def design(task: Task, scale: Scale) -> Design:
    short = task.recipe.replace(budget=Epochs(2))
    return Design(
        arms=(
            Arm(name="small", recipe=short),
            Arm(name="large", recipe=short.replace(batch_size=512)),
            Arm(name="wild", recipe=short.with_lr(1e30)),
        ),
        claims=(
            Claim(
                id="c",
                statement="small beats large",
                source="a test",
                test=Greater("small", "large", 1.0),
                expected=None,
                why="a test",
            ),
        ),
        seeds=2,
        gap=("small", "large"),
        evaluations=2,
    )


small = Study(name="small", title="A small study", source="a test", design=design)
