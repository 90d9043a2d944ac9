r"""Programs that a model wrote: do they pass their tests, and would one of k?

Of n answers c pass. The chance that at least one of k passes is estimated without bias by drawing k
of the n without putting them back,

$$\text{pass@}k = 1 - \binom{n - c}{k} \Big/ \binom{n}{k}
  = 1 - \prod_{i = n - c + 1}^{n} \Big(1 - \frac{k}{i}\Big) .$$

The obvious $1 - (1 - c/n)^k$ is too low:

>>> pass_at_k(10, 3, 5), 1 - (1 - 3 / 10) ** 5
(0.9166666666666666, 0.8319300000000001)
>>> passes("def double(x): return x + x", "assert double(3) == 6", allow_code=True)
Outcome(passed=True, why='')
>>> passes("raise SystemExit(0)", "assert False", allow_code=True)
Outcome(passed=False, why='ended before its tests')

Source: Chen et al., "Evaluating large language models trained on code" (2021), equation 1, figure 3
and section 2.3.
"""

import math
import secrets
from dataclasses import dataclass

from llm_eval.metrics.sandbox import run_python
from shared.errors import UserError
from shared.require import require


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that of k answers one passes, if c of n did.

    Raises
    ------
    ValueError
        There are fewer than k answers: nothing unbiased can be said of more than n.
    """
    require(1 <= k <= n, f"k must be between 1 and n = {n}", k)
    require(0 <= c <= n, f"c must be between 0 and n = {n}", c)
    if n - c < k:
        return 1.0
    return 1 - math.prod(1 - k / i for i in range(n - c + 1, n + 1))


@dataclass(frozen=True)
class Outcome:
    """Whether a program passed its tests; if not, why in a line."""

    passed: bool
    why: str


def passes(
    program: str,
    tests: str,
    *,
    allow_code: bool = False,
    seconds: float = 5.0,
    memory: int = 1 << 30,
) -> Outcome:
    """Run a program and its tests in the sandbox.

    Parameters
    ----------
    program
        Of HumanEval: the prompt and what the model wrote after it.
    tests
        Source that raises if the program is wrong. Of HumanEval: `test` and a call of `check`.
    allow_code
        A model's programs run only if you say so; see `sandbox.py` for what that means.

    Raises
    ------
    UserError
        It is not allowed.
    """
    if not allow_code:
        raise UserError("running programs that a model wrote needs allow_code=True, got False")
    # An exit code of 0 proves nothing, since `exit()` gives it too. What follows the tests does,
    # if the program cannot know it.
    token = secrets.token_hex(16)
    last = f"__import__('os').write(1, b'{token}')"
    verdict = run_python(f"{program}\n{tests}\n{last}\n", seconds=seconds, memory=memory)
    passed = verdict.end == "ended" and token in verdict.output
    return Outcome(passed, "" if passed else _why(verdict.end, verdict.error, seconds))


def _why(end: str, error: str, seconds: float) -> str:
    if end == "error":
        lines = error.strip().splitlines() or ["ended with an error"]
        return lines[-1][:200]
    return {
        "ended": "ended before its tests",
        "time": f"took more than {seconds:g} s",
        "output": "printed too much",
        "killed": "killed by a signal",
    }[end]
