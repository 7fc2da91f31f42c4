"""The names of the arms of `small-batches`, and the batch sizes that set them apart."""

# "Friends don't let friends use mini-batches larger than 32" (LeCun, 2018).
LARGEST_SMALL = 32
BEST_SMALL, BEST_LARGE = f"epochs, best up to {LARGEST_SMALL}", f"epochs, best above {LARGEST_SMALL}"
TUNED_SMALL = f"tuned, best up to {LARGEST_SMALL}"
# Whose curvature is compared.
FLAT = (16, 512)

EPOCHS, STEPS = "epochs", "steps"


def course_arm(budget: str, batch_size: int) -> str:
    """The arm of a batch size whose rate is in proportion to it, at equal `epochs` or `steps`."""
    return f"{budget}, batch {batch_size}"


def tuned(batch_size: int) -> str:
    """The arm of a batch size with the rate tuned for it."""
    return f"tuned, batch {batch_size}"


def flat_arm(budget: str, batch_size: int) -> str:
    """The arm whose curvature is measured, at the reference rate whatever its batch."""
    return f"same rate, {budget}, batch {batch_size}"


def target_arm(batch_size: int) -> str:
    """The arm that goes to the target."""
    return f"to the target, batch {batch_size}"
