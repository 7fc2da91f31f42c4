"""How long is a step beside the weights that it moves, where weight decay holds their length? (Page 2018, part 6)

A weight before a norm has a gradient at right angles to it, of length g/|w|: it grows by its steps, and shrinks by
coupled weight decay. The two come to rest where |w|^4 = lr g^2 / (2 (1 - m) wd), after about (1 - m) / (4 lr wd) steps.
With gradients that do not depend on each other the root mean square of |step| / |w| is then, at momentum m,

    heavy ball: sqrt(2 lr wd / (1 + m)),    Nesterov: sqrt(2 lr wd (1 - m) ((1 + m)^2 + m^4 / (1 - m^2))):

a gradient's whole move, lr g / (1 - m), sets the length of the weights; a step is but the part of it that is made now.
Without momentum it is Page's sqrt(2 lr wd); with it see Kosson, Messmer and Jaggi (2023, arXiv 2305.17212).
"""

import math

from rebatch.recipe import Sgd


def relative_step(optimizer: Sgd) -> float:
    """The root mean square of |step| / |w| at rest, for weights before a norm and gradients that are mostly noise.

    >>> round(relative_step(Sgd(lr=0.1, weight_decay=5e-4)), 6)
    0.01
    >>> round(relative_step(Sgd(lr=0.1, weight_decay=5e-4, momentum=0.9)), 6)
    0.007255
    """
    m, square = optimizer.momentum, 2.0 * optimizer.lr * optimizer.weight_decay
    if optimizer.nesterov:
        return math.sqrt(square * (1.0 - m) * ((1.0 + m) ** 2 + m**4 / (1.0 - m**2)))
    return math.sqrt(square / (1.0 + m))


def rest_decay(optimizer: Sgd, steps: int, times: float) -> float:
    """The weight decay at which the lengths of weights come to rest in `times`-th parts of `steps` steps.

    >>> round(rest_decay(Sgd(lr=0.025, momentum=0.9), 1000, 10), 9)
    0.01
    """
    return times * (1.0 - optimizer.momentum) / (4.0 * optimizer.lr * steps)
