"""Usual slips of the hand: what was given in place of what, in one line that says what to write."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rebatch
from rebatch import (
    Facts,
    RequestError,
    Sgd,
    Steps,
    apply_recipe,
    build_optimizer,
    build_scheduler,
    carry_over,
    recipe_of,
)
from rebatch.measure import NoiseScale
from rebatch.recipe_file import dumps_recipe
from toy import toy_model, toy_splits

MODEL = toy_model(norm=False)
TUNED = rebatch.Recipe(batch_size=4, optimizer=Sgd(lr=0.1), budget=Steps(8))
READ = "write Recipe(...), or read one (recipe_of, read_recipe)"
SGD = "optimizer must be one of torch.optim's, got Sequential; give the one that moves the weights"
FACTS = "write facts=Facts(noise_scale=B)"
INTERVAL = "must be a number or an Interval (leave it out if it is unknown), got"
# What is passed in these calls is wrong on purpose, so nothing here has a type.
moved: Any = rebatch.transfer(TUNED, batch_size=8)
given: Any = torch.optim.SGD(MODEL.parameters(), lr=0.1)
network: Any = MODEL
transfer: Any = rebatch.transfer
facts: Any = Facts
carry: Any = carry_over
noise: Any = NoiseScale

CASES: list[tuple[Callable[[], Any], str]] = [
    (lambda: transfer(moved, batch_size=8), "recipe must be a Recipe, got Transfer; take its .recipe"),
    (lambda: transfer(given, batch_size=8), f"recipe must be a Recipe, got SGD; {READ}"),
    (lambda: transfer("tuned.toml", batch_size=8), f"recipe must be a Recipe, got 'tuned.toml'; {READ}"),
    (lambda: transfer(rebatch.Recipe, batch_size=8), f"recipe must be a Recipe, got the class Recipe; {READ}"),
    (lambda: apply_recipe(moved, given), "recipe must be a Recipe, got Transfer; take its .recipe"),
    (lambda: carry_over(given, TUNED, moved), "after must be a Recipe, got Transfer; take its .recipe"),
    (lambda: carry_over(given, moved, TUNED), "before must be a Recipe, got Transfer; take its .recipe"),
    (lambda: build_optimizer(moved, MODEL), "recipe must be a Recipe, got Transfer; take its .recipe"),
    (lambda: build_scheduler(moved, given, examples=9), "recipe must be a Recipe, got Transfer; take its .recipe"),
    (
        lambda: next(rebatch.train(MODEL, toy_splits(), moved, seed=0)),
        "recipe must be a Recipe, got Transfer; take its .recipe",
    ),
    (lambda: dumps_recipe(moved), "recipe must be a Recipe, got Transfer; take its .recipe"),
    (lambda: recipe_of(network, batch_size=4, budget=Steps(8)), SGD),
    (lambda: apply_recipe(TUNED, network), SGD),
    (lambda: carry_over(network, TUNED, TUNED), SGD),
    (lambda: build_scheduler(TUNED, network, examples=9), SGD),
    (
        lambda: transfer(TUNED, batch_size=8, facts={"noise_scale": 700}),
        f"facts must be Facts, got {{noise_scale = 700}}; {FACTS}",
    ),
    (lambda: carry(given, TUNED, TUNED, facts=700), f"facts must be Facts, got 700; {FACTS}"),
    (lambda: facts(noise_scale="3"), f"facts.noise_scale {INTERVAL} '3'"),
    (lambda: facts(noise_scale={"estimate": 3}), f"facts.noise_scale {INTERVAL} {{estimate = 3}}"),
    (lambda: facts(critical_batch_size=[1, 2]), f"facts.critical_batch_size {INTERVAL} [1, 2]"),
    (lambda: facts(top_eigenvalue={"a": 1}), "facts.top_eigenvalue must be a number, got {a = 1}"),
    (lambda: NoiseScale(examples=0), "examples must be at least 1, got 0; leave it out to speak about fresh ones"),
    (lambda: NoiseScale(examples=-3), "examples must be at least 1, got -3; leave it out to speak about fresh ones"),
    (lambda: noise(examples="4096"), "examples must be a whole number, got '4096'"),
]


@pytest.mark.parametrize(("slip", "message"), CASES)
def test_a_slip_is_told_in_one_line_with_what_to_write(slip: Callable[[], Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        slip()


def test_a_long_value_is_told_by_its_class() -> None:
    with pytest.raises(RequestError, match=r"^recipe must be a Recipe, got list; "):
        transfer([nn.Linear(2, 3)] * 9, batch_size=8)


@pytest.mark.parametrize("name", ["Ema", "Facts", "Interval", "Lookahead", "PiecewiseConstant"])
def test_what_messages_name_is_at_hand(name: str) -> None:
    assert name in rebatch.__all__
    assert getattr(rebatch, name).__name__ == name
