"""`bagging`: its numbers by hand, and its probe against what it stands for."""

from dataclasses import replace

import pytest
import torch

from rebatch import draws
from rebatch.averaging import Ema
from rebatch.data.sets import Splits
from rebatch.execution import Execution
from rebatch.recipe import Epochs, Recipe, Steps
from rebatch.schedule import Constant
from rebatch.study import bagging_probing
from rebatch.study.bagging_probing import bagging, prediction_variance
from rebatch.study.plan import RunSpec, make_plan
from rebatch.study.probes import Bagging
from rebatch.study.studies.mini_batches.bagging import BAGGING, quantities
from rebatch.tasks import TASKS
from rebatch.training import train
from study.made_up import run

PLAIN = TASKS["digits/mlp-plain"]
SHORT = PLAIN.recipe.replace(budget=Epochs(1))


def spec(repetitions: int = 3, models: int = 2) -> RunSpec:
    wanted = Bagging(repetitions=repetitions, models=models, decay=0.75)
    return RunSpec(task=PLAIN.name, recipe=SHORT, seed=3, probe=wanted)


def test_one_arm_has_the_task_s_schedule_and_one_a_constant_rate() -> None:
    reference, constant = make_plan(BAGGING, PLAIN, "cpu", execution=Execution()).design.arms
    assert reference.recipe == PLAIN.recipe
    assert constant.recipe == PLAIN.recipe.replace(schedule=Constant())
    assert reference.probe == constant.probe


def test_numbers_are_variances_beside_the_last_weights_and_the_ensemble_s() -> None:
    variance = {"last": 0.2, "averaged": 0.1, "long": 0.3, "bootstrap": 0.4, "ensemble": 0.05}
    metrics = {f"variance:{kind}": value for kind, value in variance.items()}
    metrics |= {f"accuracy:{kind}": 90.0 + 10.0 * value for kind, value in variance.items()}
    found = quantities({"reference": run(metrics=metrics)})
    assert found["cut:averaged:reference"] == 0.5
    assert found["cut:ensemble:reference"] == 0.25
    assert found["cut:long:reference"] == pytest.approx(1.5)
    assert found["gain:ensemble:reference"] == pytest.approx(-1.5)
    assert found["run_over_ensemble:reference"] == 4.0
    assert found["averaged_over_ensemble:reference"] == 2.0
    assert found["variance:bootstrap:reference"] == 0.4


def test_the_variance_is_added_over_classes_and_averaged_over_examples() -> None:
    first = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    second = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.75, 0.25]])
    # Of two values a and b the variance is (a - b)^2 / 2.
    assert prediction_variance(torch.stack([first, second])) == pytest.approx((2 * 0.5 + 0.0 + 2 * 0.125) / 3)


def test_each_kind_is_trained_on_what_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is trained on which examples, by which recipe; predictions are told apart by the count of calls."""
    calls: list[tuple[set[int], int, Recipe, int]] = []
    places = {tuple(image.flatten().tolist()): at for at, image in enumerate(PLAIN.data(3).train.inputs)}

    def probabilities(_: object, __: object, data: Splits, recipe: Recipe, seed: int) -> torch.Tensor:
        seen = [places[tuple(image.flatten().tolist())] for image in data.train.inputs]
        calls.append((set(seen), len(seen), recipe, seed))
        return torch.full((len(data.test), 10), float(len(calls)))

    monkeypatch.setattr(bagging_probing, "_probabilities", probabilities)
    found = bagging_probing._predictors(spec(), Bagging(repetitions=3, models=2, decay=0.75), PLAIN, PLAIN.data(3), 1)
    (last, averaged, longer, first, second) = calls
    assert last[0] == averaged[0] == longer[0]
    assert len(last[0]) == last[1] == 512
    assert last[3] == averaged[3] == longer[3] not in (first[3], second[3])
    assert first[3] != second[3]
    assert [recipe for _, _, recipe, _ in calls[3:]] == [SHORT, SHORT] == [last[2]] * 2
    assert averaged[2].averaging == Ema(decay=0.75)
    assert longer[2].budget == Steps(2 * 16)
    for examples, count, _, _ in (first, second):
        assert examples < last[0]  # of the half, and some of it more than once
        assert count == 512
        assert len(examples) == pytest.approx(512 * (1 - 1 / 2.718), abs=30)
    assert {kind: float(each[0, 0]) for kind, each in found.items()} == {
        "last": 1.0,
        "averaged": 2.0,
        "long": 3.0,
        "bootstrap": 4.0,
        "ensemble": 4.5,
    }
    calls.clear()
    bagging_probing._predictors(spec(), Bagging(repetitions=3, models=2, decay=0.75), PLAIN, PLAIN.data(3), 2)
    assert calls[0][0] != last[0]  # another repetition, another half


def test_variances_and_accuracies_are_those_of_the_predictions_on_the_test_set() -> None:
    data = PLAIN.data(3)
    seen, hits = [], 0.0
    for number in range(3):  # the twin: the run of each repetition, by hand
        rng = draws.generator(3, "bagging", number)
        half = replace(data, train=data.train.subset(rng.permutation(1024)[:512]))
        seed = int(rng.integers(2**31, size=3)[-1])
        model = PLAIN.model(seed, half)
        list(train(model, half, SHORT, seed=seed))
        with torch.no_grad():
            outputs = model.eval()(
                data.test.inputs.float() if data.normalize is None else data.normalize(data.test.inputs)
            )
        seen.append(outputs.double().softmax(1))
        hits += float((outputs.argmax(1) == data.test.targets).double().mean()) / 3
    _, found = bagging(spec(), PLAIN, None)
    together = torch.stack(seen)
    mean = together.mean(0)
    by_hand = ((together - mean) ** 2).sum(0).sum(1).mean() / 2
    assert found["variance:last"] == pytest.approx(float(by_hand), rel=1e-5)
    assert found["accuracy:last"] == pytest.approx(100 * hits)
    assert found["variance:ensemble"] < found["variance:bootstrap"]
