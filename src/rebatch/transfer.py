"""From a recipe tuned at one batch size to a recipe for another: which numbers change, by which rule, and why?"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from rebatch.batching import steps_per_epoch
from rebatch.errors import RequestError, did_you_mean
from rebatch.fields import typed
from rebatch.interval import Interval
from rebatch.price import Expected, Price, price
from rebatch.recipe import Recipe, Steps, require_recipe
from rebatch.recipe_file import field_values, spelled
from rebatch.reduction import SCALED_FIELDS, with_gradient_times
from rebatch.rules.doubts import run_doubts, run_notes
from rebatch.rules.move import Facts, Move, Rule, require_facts
from rebatch.rules.table import DEFAULT_RULES, PRESETS, RULES


class Change(msgspec.Struct, frozen=True):
    """One field of the recipe: its value as tuned, its new value, the rule that set it and the reason.

    `evidence` and `source` are the rule's, empty for what is no rule's.
    """

    field: str
    before: Any
    after: Any
    rule: str
    why: str
    evidence: str = ""
    source: str = ""


class Transfer(msgspec.Struct, frozen=True):
    """The outcome of `transfer`: `warnings` doubt it, `notes` say where it started.

    `price` is what the new recipe takes, `expected` what the same loss would take, None where neither the critical
    batch size nor the noise scale is known, or where the loss itself is another. `lr` is the new learning rate with
    bounds of 90 % for the best one, None where nobody knows.
    """

    recipe: Recipe
    kappa: float
    rules: tuple[str, ...]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    price: Price
    notes: tuple[str, ...] = ()
    expected: Expected | None = None
    lr: Interval | None = None


def transfer(
    recipe: Recipe,
    *,
    batch_size: int,
    rules: str | Rule | Sequence[str | Rule] = DEFAULT_RULES,
    examples: int | None = None,
    facts: Facts | None = None,
) -> Transfer:
    """Move `recipe` to another batch size.

    A recipe that was itself transferred starts again from the recipe that was tuned, so chaining and going back are
    consistent. A recipe with a summed loss is moved as the same one with an averaged loss would be, and stays summed
    (`rebatch.reduction`). `rules` holds names of `RULES`, of `PRESETS`, or rules of your own; they are applied in the
    order of `RULES`. `examples` is the size of the training set, which some rules need; `facts` are what was measured
    of the run: the default rules take what they find there.

    Raises:
        RequestError: what is no recipe or no facts, an unknown rule, two rules for one field, a rule that changes what
            it does not set, a missing fact, a batch that the data cannot fill, a transferred recipe that was edited.

    >>> from rebatch.recipe import Epochs, Sgd
    >>> tuned = Recipe(batch_size=128, optimizer=Sgd(lr=0.1, momentum=0.9), budget=Epochs(50))
    >>> moved = transfer(tuned, batch_size=512, rules=["sqrt_lr", "same_epochs"])
    >>> moved.recipe.optimizer.lr, moved.changes[1].field
    (0.2, 'optimizer.lr')
    """
    require_recipe(recipe)
    require_facts(facts)
    tuned = recipe.tuned or recipe
    chosen = _choose([rules] if isinstance(rules, str | Rule) else rules)
    facts = facts or Facts()
    move = Move(tuned, typed(batch_size, int, "batch_size"), typed(examples, int | None, "examples"), facts)
    _require_fits(move)
    notes, ignored = _start(recipe, chosen, move)
    notes += tuple(run_notes(move))
    if move.batch_size == tuned.batch_size:
        return Transfer(tuned, 1.0, _names(chosen), (), ignored, price(tuned, tuned, move.examples), notes)
    resized, moved = _with_batch_size(tuned, move.batch_size), _before_rules(move)
    changes = differences(tuned, resized, "batch_size", f"asked for: kappa = {move.kappa:g}")
    changes += differences(resized, moved, "summed_loss", _WHY_SUMMED)
    for rule in chosen:
        before, moved = moved, rule.apply(moved, move)
        _refuse_undeclared(rule, before, moved)
        if moved != before:
            changes += differences(before, moved, rule.name, rule.why(move), rule.evidence_for(tuned), rule.source)
    doubts = [*ignored, *run_doubts(moved, move), *(doubt for rule in chosen for doubt in rule.doubts(moved, move))]
    return Transfer(
        moved.replace(tuned=tuned),
        move.kappa,
        _names(chosen),
        tuple(changes),
        tuple(dict.fromkeys(doubts)),
        price(tuned, moved, move.examples),
        notes,
        move.expected,
        None if move.facts.contrastive else next(filter(None, (rule.bounds(moved, move) for rule in chosen)), None),
    )


def _choose(rules: Sequence[str | Rule]) -> list[Rule]:
    """The rules asked for, presets unfolded, in the order of the table; one's own come last."""
    asked: dict[str, Rule] = {}
    for item in rules:
        names = [item] if isinstance(item, Rule) else PRESETS.get(item, (item,))
        for name in names:
            rule = name if isinstance(name, Rule) else _named(name)
            asked[rule.name] = rule
    chosen = sorted(asked.values(), key=lambda rule: [*RULES, rule.name].index(rule.name))
    _refuse_conflicts(chosen)
    return chosen


def _named(name: str) -> Rule:
    if name not in RULES:
        raise RequestError(f"no rule named {name!r}{did_you_mean(name, [*RULES, *PRESETS])}")
    return RULES[name]


def _refuse_conflicts(chosen: Sequence[Rule]) -> None:
    setter: dict[str, str] = {}
    for rule in chosen:
        for field in rule.sets:
            if field in setter:
                raise RequestError(f"{setter[field]} and {rule.name} both set {field!r}; choose one of them")
            setter[field] = rule.name
    rate = setter.get("optimizer.lr")
    if rate in RULES and "matching_noise" in setter.values():
        raise RequestError(
            f"{rate} and matching_noise each keep the covariance of a weight increment, together not: "
            "choose one of them"
        )


def _refuse_undeclared(rule: Rule, before: Recipe, after: Recipe) -> None:
    for field in _differing(_fields(before), _fields(after)):
        if field not in rule.sets:
            declared = ", ".join(rule.sets) or "nothing"
            raise RequestError(f"{rule.name} changes {field!r} but declares {declared}; add {field!r} to what it sets")


def _start(recipe: Recipe, chosen: Sequence[Rule], move: Move) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(notes, warnings) on where the transfer starts: at `recipe`, or at the tuned recipe that it remembers."""
    tuned = recipe.tuned
    if tuned is None:
        return (), ()
    old, new = _fields(tuned), _fields(recipe)
    own = {field for rule in chosen if rule.name not in RULES for field in rule.sets}
    for field in _differing(old, new):
        if field not in _settable(tuned) | own:
            raise RequestError(
                f"{field} was edited after a transfer ({spelled(new.get(field))}, in [tuned] "
                f"{spelled(old.get(field))}), and a further transfer starts from [tuned]; {_WAY_OUT}"
            )
    lacking = [*(["N"] if move.examples is None else []), *(["other facts"] if move.facts == Facts() else [])]
    known = f" without {' and '.join(lacking)}" if lacking else " with these facts"
    ignored = [
        f"{field} {spelled(new.get(field))} is none that a rule gives{known}; it is ignored; {_WAY_OUT}"
        for field in _unreached(recipe, tuned, move)
        if field not in own
    ]
    return (f"starts from the recipe tuned at batch size {tuned.batch_size} that this one remembers",), tuple(ignored)


_RESIZED = ("batch_size", "gradient_penalty.batch_size")  # with or without rules
_SET_BY_RULES = {*_RESIZED, *(field for rule in RULES.values() for field in rule.sets)}
_WHY_SUMMED = "a summed gradient grows by kappa: as large a step, and as much decay in it, as before"
_WAY_OUT = "delete [tuned] to start from the numbers above it (in Python: recipe.as_tuned())"


def _unreached(recipe: Recipe, tuned: Recipe, given: Move) -> list[str]:
    """Fields that rules set, at a value to which no rule leads from `tuned`: somebody edited them.

    Rules that read the learning rate, the moments' decays or the budget start from the recipe's own.
    """
    move = Move(tuned, recipe.batch_size, given.examples, given.facts)
    start = _before_rules(move)
    reached, read = [start], _reading(start, recipe)
    for rule in RULES.values():
        sets_them = bool({"optimizer.lr", "optimizer.betas", "budget"} & set(rule.sets))
        with suppress(RequestError):  # it lacks a fact
            made = rule.apply(start if sets_them else read, move)
            reached.append(made if sets_them else _reading(made, start))
    if move.examples is None and isinstance(recipe.budget, Steps) and not isinstance(tuned.budget, Steps):
        reached.append(start.replace(budget=recipe.budget))  # same_steps may have made any number of steps
    tables = [_fields(each) for each in reached]
    values = _fields(recipe)
    return [
        field
        for field in sorted(_settable(tuned))
        if not any(_same(values.get(field), table.get(field)) for table in tables)
    ]


def _reading(recipe: Recipe, other: Recipe) -> Recipe:
    """`recipe` with the numbers of another that rules read: learning rate, moments' decays, budget."""
    numbers = {name: getattr(other.optimizer, name) for name in ("lr", "betas") if hasattr(recipe.optimizer, name)}
    return recipe.replace(optimizer=msgspec.structs.replace(recipe.optimizer, **numbers), budget=other.budget)


def _settable(tuned: Recipe) -> set[str]:
    """What a transfer from `tuned` may have set."""
    return _SET_BY_RULES | (set(SCALED_FIELDS) if tuned.loss_reduction == "sum" else set())


def _same(value: object, other: object) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=1e-9)
    return value == other


def _require_fits(move: Move) -> None:
    if move.batch_size < 1:
        raise RequestError(f"batch_size must be at least 1, got {move.batch_size}")
    if move.examples is not None and move.examples < 1:
        raise RequestError(f"examples must be at least 1, got {move.examples}")
    if move.examples is not None:
        for size in (*move.tuned.batch_sizes, *_with_batch_size(move.tuned, move.batch_size).batch_sizes):
            steps_per_epoch(move.examples, size, move.tuned.last_batch)


def _with_batch_size(tuned: Recipe, batch_size: int) -> Recipe:
    """The new batch size alone; a ghost, or a piece whose gradient is penalized, that no longer fits is cut down."""
    ghost, penalty = tuned.ghost_batch_size, tuned.gradient_penalty
    resized = tuned.replace(batch_size=batch_size, ghost_batch_size=None, gradient_penalty=None)
    smallest = min(resized.batch_sizes)
    ghost = min(ghost, smallest) if ghost and smallest > 1 else None
    if penalty is not None:
        whole_ghosts = smallest - smallest % (ghost or 1)
        penalty = msgspec.structs.replace(penalty, batch_size=min(penalty.batch_size, whole_ghosts))
    return resized.replace(ghost_batch_size=ghost, gradient_penalty=penalty)


def _before_rules(move: Move) -> Recipe:
    """The new batch size, with steps and decay as they were: a summed gradient grows by kappa of itself."""
    resized = _with_batch_size(move.tuned, move.batch_size)
    return with_gradient_times(resized, move.kappa) if resized.loss_reduction == "sum" else resized


def differences(
    before: Recipe, after: Recipe, rule: str, why: str, evidence: str = "", source: str = ""
) -> list[Change]:
    """One change for each field in which two recipes differ."""
    old, new = _fields(before), _fields(after)
    return [
        Change(field, _known(field, old, before), _known(field, new, after), rule, why, evidence, source)
        for field in _differing(old, new)
    ]


def _known(field: str, table: dict[str, Any], recipe: Recipe) -> Any:
    """A field's value, also where a table leaves it out because it is the default."""
    if field in table:
        return table[field]
    found: Any = recipe
    for name in field.split("."):
        found = getattr(found, name, None)
    return msgspec.to_builtins(found)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [field for field in dict.fromkeys([*old, *new]) if old.get(field) != new.get(field)]


def _fields(recipe: Recipe) -> dict[str, Any]:
    """Values by field path; the budget is one field, since its unit may change."""
    return field_values(recipe, whole=("budget",))


def _names(chosen: Sequence[Rule]) -> tuple[str, ...]:
    return tuple(rule.name for rule in chosen)
