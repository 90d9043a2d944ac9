"""Dates as people write them, and as machines do: a task with one right answer per line."""

import datetime

import numpy as np

FIRST = datetime.date(1950, 1, 1)
FORMS = ("{day} {month} {year}", "{month} {day}, {year}", "{weekday}, {month} {day} {year}")
FORMS += ("{day:02}/{number:02}/{year}", "{short} {day} {year}", "the {day} of {month}, {year}")
ALPHABET = ["<pad>", "<bos>", "<eos>", *sorted(set("abcdefghijklmnopqrstuvwxyz0123456789 ,/-"))]
PAD, BOS, EOS = 0, 1, 2


def dates(n: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`n` pairs such as ("the 3 of may, 1998", "1998-05-03"), between 1950 and 2049."""
    pairs = []
    for days, form in zip(rng.integers(0, 36_524, n), rng.integers(0, len(FORMS), n), strict=True):
        date = FIRST + datetime.timedelta(days=int(days))
        written = FORMS[form].format(
            day=date.day,
            month=MONTHS[date.month - 1],
            short=MONTHS[date.month - 1][:3],
            number=date.month,
            weekday=WEEKDAYS[date.weekday()],
            year=date.year,
        )
        pairs.append((written, date.isoformat()))
    return pairs


MONTHS = ("january", "february", "march", "april", "may", "june")
MONTHS += ("july", "august", "september", "october", "november", "december")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def encode(text: str) -> list[int]:
    """Ids of the characters."""
    return [ALPHABET.index(character) for character in text]
