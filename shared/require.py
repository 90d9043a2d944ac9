"""The one way arguments are checked: a condition, what must hold, and what came instead."""

from typing import Any

__all__ = ["require"]


def require(holds: Any, must: str, *got: Any, error: type[Exception] = ValueError) -> None:
    """Raise `error` with the message "`must`, got `got`" unless the condition holds.

    Parameters
    ----------
    holds
        The condition.
    must
        Names the argument and what is expected of it: ``"dropout must be in [0, 1)"``.
    got
        What came; several values are joined by "and".
    error
        ValueError, or TypeError where the kind of the argument is wrong.

    Examples
    --------
    >>> require(0 <= 1.5 < 1, "dropout must be in [0, 1)", 1.5)
    Traceback (most recent call last):
    ValueError: dropout must be in [0, 1), got 1.5
    """
    if not holds:
        raise error(f"{must}, got {' and '.join(map(str, got))}" if got else must)
