"""Numbers as text, with the digits that their size asks for: units of y are the user's."""

from __future__ import annotations

import math

LEAST, MOST = 6, 17


def shown(value: float) -> str:
    """Return a score as text: three decimals, or three digits in units far from 1.

    Examples:
        >>> shown(0.7234), shown(7.234e-24), shown(7.234e8)
        ('0.723', '7.23e-24', '7.23e+08')
    """
    return f"{value:.3f}" if value == 0 or 1e-2 <= abs(value) < 1e5 else f"{value:.3g}"


def digits_of(mean: float, deviation: float) -> int:
    """Return how many digits show a mean as finely as six digits show its deviation.

    Args:
        mean: the mean.
        deviation: its standard deviation; 0 asks for six digits.

    Examples:
        >>> digits_of(1.5, 0.3), digits_of(1e8, 1.0)
        (7, 14)
    """
    ratio = abs(mean) / deviation if deviation > 0 else 1.0
    return min(MOST, LEAST + math.ceil(math.log10(max(ratio, 1.0))))
