"""Annotations that hold when a function is called: arrays are taken once, at its door.

jaxtyping's annotations name the sizes: ``Float[np.ndarray, "n c"]``. `checked` reads them at each
call. A size of one name is one number in all arguments, so labels that are one too few are refused
and not broadcast.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from types import UnionType
from typing import Any, TypeVar

import numpy as np
from jaxtyping import AbstractArray, _decorator, jaxtyped

__all__ = ["checked"]

# Or the first call would import the whole of jax, where it is installed, to shorten tracebacks.
_decorator._tb_flag = False

F = TypeVar("F", bound=Callable[..., Any])
KINDS = {
    "Float": "floats",
    "Int": "integers",
    "Integer": "integers",
    "Num": "numbers",
    "Bool": "booleans",
}


def checked(function: F) -> F:
    """Take what comes for an annotated array as one, and refuse what does not fit.

    Lists, pandas columns and tables become arrays, by position and never by label; whole numbers
    and truth values become floats where floats are asked for. Tensors are checked and never
    converted. Other arguments pass as they are.

    Raises
    ------
    ValueError
        By the function returned, with one line that names the argument.

    Examples
    --------
    >>> from jaxtyping import Float
    >>> @checked
    ... def error(y: Float[np.ndarray, " n"], prediction: Float[np.ndarray, " n"]) -> float:
    ...     return abs(y - prediction).mean()
    >>> print(error([1, 0], [0.5, 0.5]))
    0.5
    >>> error([1, 0], [0.5])
    Traceback (most recent call last):
    ValueError: prediction must be floats of shape (n = 2), got float64 of shape (1)
    """
    signature = inspect.signature(function)

    @functools.cache
    def arrays() -> dict[str, tuple]:  # at the first call: annotations may name what comes later
        members = {name: _members(p, function) for name, p in signature.parameters.items()}
        return {name: kinds for name, kinds in members.items() if any(map(_is_array, kinds))}

    @functools.wraps(function)
    def at_the_door(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        sizes: dict[str, int] = {}
        with jaxtyped("context"):
            for name, kinds in arrays().items():
                if name in given.arguments:
                    given.arguments[name] = _take(name, given.arguments[name], kinds, sizes)
        return function(*given.args, **given.kwargs)

    return typing.cast(F, at_the_door)


def _members(parameter: inspect.Parameter, function: Callable) -> tuple:
    """What a parameter may be: the parts of its union, or its one annotation."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return ()
    kind = parameter.annotation
    if isinstance(kind, str):
        kind = eval(kind, function.__globals__)
    return (
        typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, UnionType) else (kind,)
    )


def _is_array(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, AbstractArray)


def _take(name: str, value: Any, kinds: tuple, sizes: dict[str, int]) -> Any:
    wanted = [kind for kind in kinds if _is_array(kind)]
    listed = isinstance(value, list | tuple) or hasattr(value, "__array__")
    if len(wanted) < len(kinds) and not listed:  # None, or a number where one will do
        return value
    if any(kind.array_type is np.ndarray for kind in wanted):
        value = _as_array(name, value, wanted)
    for kind in wanted:
        if isinstance(value, kind):
            dims = kind.dim_str.split()
            if len(dims) == value.ndim:
                sizes.update(zip(dims, value.shape, strict=True))
            return value
    must = " or ".join(_words(kind, sizes) for kind in wanted)
    raise ValueError(f"{name} must be {must}, got {_shown(value)}")


def _as_array(name: str, value: Any, wanted: list) -> np.ndarray:
    """By position. Numbers of another kind become floats, or integers, if that is what fits."""
    if isinstance(value, np.ma.MaskedArray):  # asarray would let the mask fall
        raise ValueError(f"{name} must be an array without a mask, got {type(value).__name__}")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array: {error}") from None
    kinds = {kind.__name__.split("[")[0] for kind in wanted}
    if kinds & {"Shaped", "Complex", "Inexact"}:
        return array
    if array.dtype.kind == "O" or (array.dtype.kind in "iub" and kinds == {"Float"}):
        try:
            return array.astype(float)  # columns of objects that are numbers too
        except (ValueError, TypeError):
            return array
    if (array.dtype.kind == "b" and "Bool" not in kinds) or (
        array.dtype.kind == "u" and kinds == {"Int"}
    ):
        return array.astype(np.int64)  # jaxtyping's Int is signed
    return array


def _words(kind: Any, sizes: dict[str, int]) -> str:
    names = [f"{d} = {sizes[d]}" if d in sizes else d for d in kind.dim_str.split()]
    what = KINDS.get(kind.__name__.split("[")[0], "values")
    return f"{what} of shape ({', '.join(names)})"


def _shown(value: Any) -> str:
    if not hasattr(value, "shape"):
        return type(value).__name__
    return f"{value.dtype} of shape ({', '.join(map(str, value.shape))})"
