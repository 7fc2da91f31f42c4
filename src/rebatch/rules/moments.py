"""Averages over steps at another batch size: Adam's moments, RMSprop's, and averages of weights."""

import math
from collections.abc import Sequence
from typing import assert_never

import msgspec

from rebatch.errors import RequestError
from rebatch.recipe import Adagrad, AdamW, Lamb, Lars, Lion, Muon, Recipe, RmsProp, Sgd
from rebatch.rules.move import Move

# Within these beta2 was tried (Marek et al., 2025, arXiv 2507.07101, batch 1 to 4,096).
TRIED_BETA2 = (0.9, 0.99995)


def beta2_half_life(recipe: Recipe, move: Move) -> Recipe:
    """The second moment remembers as many examples as before: beta2^kappa, RMSprop's alpha^kappa (Marek et al., 2025).

    beta1 stays: .9 was best from batch 16 to 1,024 there. Of Lion beta2 is the longer of its two memories, of Muon that
    of AdamW's part; Muon's own momentum stays, as SGD's does.
    """
    tuned = move.tuned.optimizer
    match tuned:
        case (
            AdamW(betas=(beta1, beta2))
            | Lion(betas=(beta1, beta2))
            | Lamb(betas=(beta1, beta2))
            | Muon(betas=(beta1, beta2))
        ):
            return _with(recipe, betas=(beta1, _half_life(beta2, move, "optimizer.betas")))
        case RmsProp(alpha=alpha):
            return _with(recipe, alpha=_half_life(alpha, move, "optimizer.alpha"))
        case Sgd() | Adagrad() | Lars():
            return recipe
        case _:
            assert_never(tuned)


def sde_betas(recipe: Recipe, move: Move) -> Recipe:
    """1 - beta grows by kappa, for both of Adam's moments and RMSprop's (Malladi et al., 2022, arXiv 2205.10287).

    Raises:
        RequestError: kappa (1 - beta) is 1 or more: the moment would forget within a step, and the theory ends.
    """
    tuned = move.tuned.optimizer
    match tuned:
        case AdamW(betas=(beta1, beta2)):
            return _with(recipe, betas=(_sde(beta1, move, "beta1"), _sde(beta2, move, "beta2")))
        case RmsProp(alpha=alpha):
            return _with(recipe, alpha=_sde(alpha, move, "alpha"))
        case Sgd() | Adagrad() | Lion() | Lars() | Lamb() | Muon():  # not in the theory
            return recipe
        case _:
            assert_never(tuned)


def sde_eps(recipe: Recipe, move: Move) -> Recipe:
    """eps / sqrt(kappa): it goes beside a gradient's size, which falls by sqrt(kappa) where noise dominates."""
    optimizer = recipe.optimizer
    match optimizer:
        case AdamW(eps=eps) | RmsProp(eps=eps):
            return _with(recipe, eps=eps / math.sqrt(move.kappa))
        case Sgd() | Adagrad() | Lion() | Lars() | Lamb() | Muon():
            return recipe
        case _:
            assert_never(optimizer)


def average_half_life(recipe: Recipe, move: Move) -> Recipe:
    """The average of weights remembers as many examples as before: decay^kappa (Busbridge et al., 2023)."""
    averaging = move.tuned.averaging
    if averaging is None:
        return recipe
    decay = _half_life(averaging.decay, move, "averaging.decay")
    return recipe.replace(averaging=msgspec.structs.replace(averaging, decay=decay))


def beta2_doubts(recipe: Recipe, _: Move) -> Sequence[str]:
    """A decay outside what was tried."""
    match recipe.optimizer:
        case AdamW(betas=(_, beta)) | Lamb(betas=(_, beta)) | Muon(betas=(_, beta)) | RmsProp(alpha=beta) if beta > 0.0:
            low, high = TRIED_BETA2
            if not low <= beta <= high:
                shown = f"{beta:.6g} (1 - {1 - beta:.3g})"
                return (f"the second moment's decay {shown} is outside {low:g} to {high:g}, where it was tried",)
    return ()


def half_life_why(_: Move) -> str:
    """Of what remembers as many examples as before."""
    return "to the power kappa: the same half-life in examples"


def _half_life(decay: float, move: Move, field: str) -> float:
    """decay^kappa."""
    if decay == 0.0 or move.kappa == 1:
        return decay
    found = math.exp(move.kappa * math.log(decay))
    if not 0.0 < found < 1.0:
        raise RequestError(
            f"{field}: {decay:g} to the power kappa = {move.kappa:g} is {found:g} in double precision; take a batch "
            "size nearer to the tuned one"
        )
    return found


def _sde(beta: float, move: Move, name: str) -> float:
    grown = move.kappa * (1.0 - beta)
    if grown >= 1.0:
        raise RequestError(
            f"sde_betas: kappa (1 - {name}) = {move.kappa:g} x {1.0 - beta:.4g} = {grown:.4g} must be below 1; take "
            "beta2_half_life, which exists for every kappa, or a smaller batch"
        )
    return 1.0 - grown


def _with(recipe: Recipe, **numbers: object) -> Recipe:
    return recipe.replace(optimizer=msgspec.structs.replace(recipe.optimizer, **numbers))
