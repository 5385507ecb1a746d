"""Which temperature fits labels best, and whether there are labels enough to tell.

Temperatures that fit nearly as well as the best one are an interval: those whose log-likelihood is at most 1.92 less,
half of the 95 % point of chi-squared with one degree of freedom (Wilks: The large-sample distribution of the likelihood
ratio, 1938). Where no label contradicts a guess, the colder the better: the interval has no end, and a temperature read
off such labels would make every guess certain. So the best one is named only where the interval ends on both sides, and
is narrow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures between which the best is looked for."""
NARROW = 2.0
"""The interval is narrow if its hot end is at most so many times its cold end."""
_LESS_LIKELY = 1.92
_PRECISION = 1e-3
"""Of the logarithm of the temperature."""
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Fit:
    """What ``labels`` labels tell of the temperature."""

    labels: int
    best: float | None
    """None if it cannot be told."""
    interval: tuple[float, float]
    """The coldest and the hottest that fit nearly as well; of those that are looked at."""
    needed: int | None
    """About how many labels would tell, at least; None if these do, or if more of their kind would not.

    The interval of the logarithm narrows with the square root of their number.
    """


def fitted(loss: Callable[[float], float], labels: int) -> Fit:
    """``loss``: the mean negative log-likelihood of the labels at a temperature, which falls and then rises."""

    def total(log_temperature: float) -> float:
        return labels * loss(math.exp(log_temperature))

    low, high = math.log(COLDEST), math.log(HOTTEST)
    best = _least(total, low, high)
    nearly = min(map(total, (low, best, high))) + _LESS_LIKELY
    cold, hot = (_last(total, nearly, best, end) for end in (low, high))
    width, narrow = hot - cold, math.log(NARROW)
    if low < cold and hot < high and width <= narrow:
        return Fit(labels, math.exp(best), (math.exp(cold), math.exp(hot)), None)
    needed = math.ceil(labels * (width / narrow) ** 2) if width > narrow else None
    return Fit(labels, None, (math.exp(cold), math.exp(hot)), needed)


def _last(loss: Callable[[float], float], limit: float, inside: float, end: float) -> float:
    """How far one can go from ``inside`` towards ``end`` before ``loss`` exceeds ``limit``: bisection."""
    if loss(end) <= limit:
        return end
    while abs(end - inside) > _PRECISION:
        middle = (inside + end) / 2
        inside, end = (middle, end) if loss(middle) <= limit else (inside, middle)
    return inside


def _least(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where ``loss``, which falls and then rises, is least between ``low`` and ``high``: golden-section search."""
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = loss(a), loss(b)
    while high - low > _PRECISION:
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - _GOLDEN * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + _GOLDEN * (high - low)
            at_b = loss(b)
    return (low + high) / 2
