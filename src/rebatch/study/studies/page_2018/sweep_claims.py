"""The claims of `page-sweep`: P5 to P10, P16, and the rate part of P21."""

import math
from collections.abc import Sequence

from rebatch.study.claims import AllOf, Claim, Quantity, Test
from rebatch.study.studies.page_2018.common import KAPPA, PUBLISHED_TASK
from rebatch.tasks.task import Task


def sweep_claims(task: Task, sets: Sequence[int], seeds: int, *, whole: bool) -> tuple[Claim, ...]:
    """On `sets` of so many examples; `whole` where arms have the budget of the source."""
    small, large = task.recipe.batch_size, KAPPA * task.recipe.batch_size
    pair, octaves = f"{small}/{large}", math.log2(KAPPA)
    published = task.name == PUBLISHED_TASK and whole
    why = (
        "Factors stand an octave apart, so an edge is known to half an octave either way; a best factor comes from a "
        f"parabola. {seeds} seeds: as many as the time of this scale allows, three at least where it is no quick "
        "look. Seeds whose edges fall between the same two factors are all equal, and the sign test needs six of them."
    )

    def claim(id_: str, statement: str, test: Test, expected: float | None = None, more: str = "") -> Claim:
        return Claim(
            id=id_,
            statement=statement,
            source=f"Page 2018, part 2, {id_.partition('-')[0]}",
            test=test,
            expected=expected if published else None,
            why=f"{more} {why}".strip(),
        )

    per_octave, unit = "octaves per octave of n", "octaves"
    claims = [
        claim(
            "P5",
            "Training breaks at one factor whatever the number of examples, and suddenly",
            AllOf(
                (
                    _quantity(f"edge_slope:{small}", low=-0.25, high=0.25, unit=per_octave),
                    _quantity(f"jump:{small}", low=0.5, unit="octaves of the loss"),
                )
            ),
            0.0,
            "The edge moves by less than an octave over a 16th of the examples, and the training loss rises across it "
            "by over sqrt(2) beyond its rise in the octave before; published: f = 8 for all sizes.",
        ),
        claim(
            "P6",
            "The factor that breaks training falls as 1/B: its rate does not depend on the batch size",
            _quantity(f"edge_ratio:{pair}", low=octaves - 0.5, high=octaves + 0.5, unit=unit),
            octaves,
            "Published: f = 8 at 128 against 2 at 512; a ratio of 2.8 to 5.7 is accepted.",
        ),
        claim(
            "P7",
            "At the small batch the best rate lies far below the breaking one",
            _quantity(f"room:{small}", low=1.5, unit=unit),
            3.0,
            "Far: over 2.8 times, nearer to the published 8 (f = 1 against 8) than to 1; his 8 is the first factor "
            "that breaks, here the edge is the middle between that and the last that holds.",
        ),
        claim(
            "P8",
            "Fewer examples want a higher rate, with equal epochs and with equal updates",
            AllOf(
                (
                    _quantity(f"optimum_slope:{small}", high=0.0, unit=per_octave),
                    _quantity(f"optimum_slope:{small}, equal updates", high=0.0, unit=per_octave),
                )
            ),
            more="With equal epochs few updates alone might ask for it, with equal updates many repeats.",
        ),
        claim(
            "P9",
            "Best factor and best loss do not depend on the batch size",
            AllOf(
                (
                    _quantity(f"optimum_shift:{pair}", low=-0.5, high=0.5, unit=unit),
                    _quantity(f"loss_ratio:{pair}", low=1 / 1.1, high=1.1, unit="x the small batch's test loss"),
                )
            ),
            0.0,
            "Half an octave is half the distance of two factors; losses within 10 %, published 0.188 against 0.20.",
        ),
        claim(
            "P10",
            "At the large batch the best rate comes close to the breaking one",
            AllOf(
                (
                    _quantity(f"room:{large}", high=1.5, unit=unit),
                    _quantity(f"room_lost:{pair}", low=0.5, unit=unit),
                )
            ),
            1.0,
            "Published: edge over best factor about 2, against 8 at the small batch.",
        ),
        claim(
            "P16",
            "Curvature sets the edge: just below it, training breaks where a quadratic of its curvature would",
            AllOf(
                tuple(_quantity(f"prediction_error:{each}", low=-1.0, high=1.0, unit=unit) for each in (small, large))
            ),
            0.0,
            "The top eigenvalue when the rate of the largest factor that holds is highest, and the optimizer's own "
            "limit, 1.357 over it for Nesterov at 0.9. Within a factor of 2: the edge alone is unsure by half of that.",
        ),
        claim(
            "P16-reference",
            "The curvature of the run at f = 1 already says where training breaks",
            AllOf(
                tuple(
                    _quantity(f"prediction_error:{each}, f 1", low=-1.0, high=1.0, unit=unit) for each in (small, large)
                )
            ),
            0.0,
            "If curvature were the landscape's and did not follow the rate, f = 1 would show the same edge.",
        ),
    ]
    if len(sets) > 2:
        claims.append(
            claim(
                "P21-rate",
                "The more examples, the further below the edge the best rate lies, and smaller sets predict the whole",
                AllOf(
                    (
                        _quantity(f"room_slope:{small}", low=0.0, unit=per_octave),
                        _quantity(f"room_missed:{small}", low=-0.75, high=0.75, unit=unit),
                    )
                ),
                more="A line in log2 n through all sets but the largest; a best factor is known to half an octave.",
            )
        )
    return tuple(claims)


# Whether a number is a bound or missing hangs on the edge, the best factor or both; of which sweeps its label says.
_HANGS_ON = {
    "edge_slope": "edge",
    "jump": "edge",
    "edge_ratio": "edge",
    "prediction_error": "edge",
    "optimum_slope": "optimum",
    "optimum_shift": "optimum",
    "loss_ratio": "optimum",
    "room": "room",
    "room_lost": "room",
    "room_slope": "room",
    "room_missed": "room",
}
_OF_WHOLE_SET = ("room", "jump", "prediction_error")


def _quantity(name: str, *, low: float | None = None, high: float | None = None, unit: str) -> Quantity:
    """A number of the sweeps, with what says where it stands at an end of the factors."""
    kind, _, label = name.partition(":")
    where = f"{label.removesuffix(', f 1')}, whole set" if kind in _OF_WHOLE_SET else label
    return Quantity(name, low=low, high=high, unit=unit, beyond=f"{_HANGS_ON[kind]}_open:{where}")
