r"""Where a text ends: before the first of its stops, however its tokens are cut.

A stop need not be a token, nor begin where one begins: `".\n\n"` may come as `"."` and `"\n\n"`,
or inside of a longer token. So stops are sought in the text, never among tokens.

>>> cut("The sea.\nThe sky.\n", ("\n", "sky"))
('The sea.', True)
>>> cut("The sea.", ("\n",))
('The sea.', False)
>>> cut("The sea.", "\n")
Traceback (most recent call last):
ValueError: until must be several texts, got one: '\n'
"""

from collections.abc import Sequence

from shared.require import require


def stops(until: Sequence[str]) -> tuple[str, ...]:
    """The texts that end an answer; an empty one ends nothing, as in lm-eval.

    Raises
    ------
    ValueError
        It is one text, which would be iterated by its characters.
    """
    require(not isinstance(until, str), "until must be several texts", f"one: {until!r}")
    return tuple(stop for stop in until if stop)


def cut(text: str, until: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop, and whether there was one."""
    found = [at for stop in stops(until) if (at := text.find(stop)) >= 0]
    return text[: min(found, default=len(text))], bool(found)
