"""What does an adaptive optimizer divide each weight's step by? Read off the live one, for measures in its norm."""

from torch import Tensor, nn
from torch.optim import Optimizer

from rebatch.errors import RequestError

# Of an optimizer that averages squares of gradients a group has one of these; the state of others never comes.
_AVERAGES = {"betas", "alpha"}


def adam_denominator(optimizer: Optimizer, parameter: nn.Parameter) -> Tensor | None:
    """Adam's sqrt(v) + eps of a parameter, v without its bias, or RMSprop's; None before a parameter's first step.

    With the running mean of squared gradients v as of the last step (with AMSGrad its maximum so far, and less the
    squared running mean where RMSprop is centered). A step moves the weight by lr times its (averaged) gradient divided
    by this.

    Returns:
        the parameter's shape, device and dtype.

    Raises:
        RequestError: the optimizer keeps no squared gradients that it divides by in this way.
    """
    state = optimizer.state.get(parameter)
    groups = (group for group in optimizer.param_groups if any(each is parameter for each in group["params"]))
    group = next(groups, None)
    if group is None or (not state and _AVERAGES & group.keys()):
        return None
    if state and "exp_avg_sq" in state and "trust_ratio" not in state:  # LAMB divides by norms as well
        second = state.get("max_exp_avg_sq", state["exp_avg_sq"])
        second = second / (1.0 - group["betas"][1] ** float(state["step"]))
    elif state and "square_avg" in state and "acc_delta" not in state:  # Adadelta divides by more than that
        second = state["square_avg"]
        if "grad_avg" in state:
            second = (second - state["grad_avg"].square()).clamp(min=0.0)  # rounding may make it less than nothing
    else:
        raise RequestError(
            f'norm="adam" needs an optimizer that keeps squared gradients, got {type(optimizer).__name__}; '
            'use norm="euclidean"'
        )
    denominator: Tensor = second.sqrt() + group["eps"]
    return denominator
