"""Numbers that people write: decimals and fractions."""

import math


def parse_number(text: str) -> float:
    """Return the finite number of "0.25", "1e-3", "8/255" or "0.5/255".

    Raises:
        ValueError: it is no such number; the message says why.
    """
    above, slash, below = text.partition("/")
    try:
        value = float(above) / (float(below) if slash else 1.0)
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by 0") from None
    except ValueError:
        raise ValueError(f"{text!r} is not a number such as 0.5 or 1/255") from None
    if not math.isfinite(value) or not math.isfinite(float(below or 1)):
        raise ValueError(f"{text!r} is not finite")
    return value
