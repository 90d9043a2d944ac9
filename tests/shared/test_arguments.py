"""Arrays at the door: what is taken, what is refused, and in which words."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import Bool, Float, Int, Num, Shaped

from shared.arguments import checked


@checked
def take(
    X: Float[np.ndarray, "n d"],
    y: Shaped[np.ndarray, " n"] | None = None,
    *,
    weight: Num[np.ndarray, " n"] | float = 1.0,
    k: int = 3,
):
    return X, y, weight, k


def test_lists_and_pandas_become_arrays_by_position():
    table = pd.DataFrame({"a": [1, 2], "b": [3, 4]}, index=[7, 5])
    X, y, weight, k = take(table, pd.Series(["u", "v"], index=[1, 0]), weight=[True, False], k=5)
    assert (X.dtype, y.tolist(), weight.tolist(), k) == (np.float64, ["u", "v"], [1, 0], 5)
    assert X.tolist() == [[1, 3], [2, 4]]
    X, y, weight, _ = take([[1, 2]], weight=2)
    assert (X.tolist(), y, weight) == ([[1.0, 2.0]], None, 2)
    same = np.zeros((2, 2), np.float32)
    assert take(same)[0] is same
    assert take(pd.DataFrame({"a": [1.5]}, dtype=object))[0].dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([[1, 2]], {}, r"X must be floats of shape \(n, d\), got float64 of shape \(2\)"),
        ([None], {}, r"X must be floats of shape \(n, d\), got"),
        ([3.0], {}, r"X must be floats of shape \(n, d\), got float64 of shape \(\)"),
        ([[[1], [2, 3]]], {}, "X must be an array: .*inhomogeneous"),
        ([np.ma.masked_equal([[1.0, 2.0]], 2.0)], {}, "X must be an array without a mask"),
        ([[["a"]]], {}, r"X must be floats of shape \(n, d\), got <U1 of shape \(1, 1\)"),
        ([[[1], [2]], [1]], {}, r"y must be values of shape \(n = 2\), got int64 of shape \(1\)"),
        ([[[1]]], {"weight": [[1]]}, r"weight must be numbers of shape \(n = 1\), got .* \(1, 1\)"),
        ([[[1]]], {"weight": ["1"]}, r"weight must be numbers of shape \(n = 1\), got <U1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        take(*arguments, **options)


def test_kinds_of_numbers():
    @checked
    def of(i: Int[np.ndarray, " n"], mask: Bool[np.ndarray, " n"] | Float[np.ndarray, "1 n"]):
        return i, mask

    i, mask = of([True, False], [True, False])
    assert (i.dtype, mask.dtype) == (np.int64, bool)
    assert of(np.array([200], np.uint8), [True])[0].tolist() == [200]
    with pytest.raises(ValueError, match=r"^i must be integers of shape \(n\), got float64"):
        of([1.5], [True])
    with pytest.raises(ValueError, match=r"^mask must be booleans of shape \(n = 1\) or floats of"):
        of([1], [1])


def test_tensors_are_checked_and_kept():
    @checked
    def of(x: Float[torch.Tensor, "*batch d"], y: "Int[torch.Tensor, '*batch']", *rest, **more):
        return x, y

    x, y = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int32)
    assert of(x, y, [1], z=2) == (x, y)
    with pytest.raises(
        ValueError, match=r"^y must be integers of shape \(\*batch\), got torch.int"
    ):
        of(x, y[0])
    with pytest.raises(ValueError, match=r"^x must be floats of shape \(\*batch, d\), got list"):
        of([1.0], y)
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        of(x)


def test_checking_does_not_import_jax():
    code = (
        "import sys\nimport numpy as np\nfrom jaxtyping import Float\n"
        "from shared.arguments import checked\n\n"
        "@checked\ndef first(x: Float[np.ndarray, ' n']) -> float:\n    return x[0]\n\n"
        "first([1, 2])\nprint('jax' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
