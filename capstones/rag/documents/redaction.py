r"""Secrets and personal data out of a text: each is replaced by a mark that says what stood there.

What can be checked is checked: a card's digits by Luhn's rule, an IBAN by its remainder modulo 97,
an internet address by its parser. So version numbers, dates, ISBNs and hashes stay.

>>> text, counts = redact("ada@example.org paid with 4111 1111 1111 1111, not 4111 1111 1111 1112")
>>> text, dict(counts)
('[EMAIL] paid with [CARD], not 4111 1111 1111 1112', {'EMAIL': 1, 'CARD': 1})
"""

import ipaddress
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from rag.types import Document

__all__ = ["find", "redact", "redacted"]

Check = Callable[[re.Match], bool]

# Two letters are a country's; of the others, those that mail comes from. So `x @ self.weight` in a
# program, written without blanks, stays.
_DOMAINS = """com org net edu gov mil int info biz name pro app dev cloud online site tech email
shop blog page wiki science museum example test invalid internal local"""
_IBAN_LENGTHS = """AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22
DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26
IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15
PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22
VG24 XK20"""
_COUNTRIES = "|".join(
    rf"{entry[:2]}\d\d(?:[ -]?[A-Z0-9]){{{int(entry[2:]) - 4}}}" for entry in _IBAN_LENGTHS.split()
)
_CARD = re.compile(
    r"4(\d{12}|\d{15}|\d{18})|(5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[0689]\d{12}|(6\d|35)\d{14}"
)
_TOKENS = r"""(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}(?!\w) | gh[pousr]_[A-Za-z0-9]{36,255}
 | github_pat_\w{22,255} | glpat-[\w-]{20,} | xox[abeoprs]-[\w-]{10,} | AIza[\w-]{35} | hf_\w{30,}
 | [prs]k_(?:live|test)_\w{16,} | npm_\w{36} | pypi-[\w-]{50,} | SG\.[\w-]{22}\.[\w-]{43}
 | ya29\.[\w-]{30,} | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"""


def luhn(digits: str) -> bool:
    """Whether the last digit fits the others, as on every card; each second one is doubled."""
    values = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(v - 9 * (v > 9) for v in values) % 10 == 0


def _is_card(found: re.Match) -> bool:
    digits = re.sub(r"\D", "", found[0])
    return (
        len(set(re.findall(r"\D", found[0]))) < 2 and bool(_CARD.fullmatch(digits)) and luhn(digits)
    )


def _is_iban(found: re.Match) -> bool:
    signs = re.sub(r"[ -]", "", found[0])
    return int("".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])) % 97 == 1


def _is_address(found: re.Match) -> bool:
    try:
        address = ipaddress.ip_address(found[0])
    except ValueError:
        return False
    if address.version == 6 and len(list(filter(None, found[0].split(":")))) < 3:
        return False  # a slice, or a name of C++: a::b
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def _is_token(found: re.Match) -> bool:
    # Words with hyphens between are a name; a key has a long part with digits in it.
    return any(len(part) > 15 and re.search(r"\d", part) for part in re.split("[-_]", found[0]))


def _is_phone(found: re.Match) -> bool:
    return 8 <= len(re.sub(r"\D", "", found[0])) <= 15


# In the order of precedence where two overlap.
_RULES: list[tuple[str, re.Pattern, Check]] = [
    (kind, re.compile(pattern, re.X), check)
    for kind, pattern, check in (
        (
            "PRIVATE_KEY",
            r"""-----BEGIN\ [A-Z0-9 ]*PRIVATE\ KEY(?:\ BLOCK)?-----
            (?:[^-]*+(?:-(?!----)[^-]*+)*+-----END\ [A-Z0-9 ]+-----|(?:\s+[A-Za-z0-9+/=]{16,})*)""",
            bool,
        ),
        ("TOKEN", rf"(?<![\w-])(?=[ASaeghnprsxy])(?:{_TOKENS})", bool),
        ("TOKEN", r"(?<![\w-])sk-[\w-]{20,}", _is_token),
        ("PASSWORD", r"(?<=://)[^\s/:@]{1,64}:[^\s/@]{1,128}(?=@)", bool),
        (
            "EMAIL",
            rf"""(?<![\w.+%'-])[\w.+%'-]{{1,64}}@(?:[\w-]{{1,63}}\.)+
            (?:[A-Za-z]{{2}}|{"|".join(_DOMAINS.split())})(?![\w(-]|[:.]\w)""",
            bool,
        ),
        ("IBAN", rf"(?<!\w)(?=[A-Z][A-Z]\d\d)(?:{_COUNTRIES})(?!\w)", _is_iban),
        ("CARD", r"(?<![\w.+-])(?:\d[ -]?){12,18}\d(?![\w-]|\.\d)", _is_card),
        # by its groups, where a date or a check number follows
        ("CARD", r"(?<![\w.+-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4})(?!\w)", _is_card),
        (
            "IP",
            r"""(?<![\w.:-])(?<![Vv]ersion\ )(?<![Rr]elease\ )(?<![Bb]uild\ )
            (?:(?:\d{1,3}\.){3}\d{1,3}(?!\w|[.-]\w)
            |(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:-]|\.\w))""",
            _is_address,
        ),
        (
            "PHONE",
            r"""(?<![\w+.)/-])(?<!\d[ ])(?:\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){2,6}
            |(?:1[ .-])?(?:\(\d{3}\)[ ]?|\d{3}[.-])\d{3}[.-]\d{4}
            |\(?0\d{2,4}\)?[ /-]\d{3,4}[ -]?\d{3,5})(?![\w/-]|[. ]\d)""",
            _is_phone,
        ),
    )
]


def find(text: str) -> list[tuple[int, int, str]]:
    """Start, end and kind of each secret, in the order of the text; no two overlap."""
    taken = bytearray(len(text))
    found = []
    for kind, pattern, check in _RULES:
        for match in pattern.finditer(text):
            start, end = match.span()
            if check(match) and not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append((start, end, kind))
    return sorted(found)


def redact(text: str) -> tuple[str, Counter[str]]:
    """Return the text with marks instead of secrets, and how many of each kind there were."""
    parts, at, found = [], 0, find(text)
    for start, end, kind in found:
        parts += [text[at:start], f"[{kind}]"]
        at = end
    return "".join([*parts, text[at:]]), Counter(kind for _, _, kind in found)


def redacted(document: Document) -> Document:
    """A document without secrets in its text, title and metadata, which say what they held.

    Where its pages begin moves with the text.
    """
    found = find(document.text)
    ends = [end for _, end, _ in found]
    moved = [0, *accumulate(len(kind) + 2 - (end - start) for start, end, kind in found)]
    pages = tuple(page + moved[bisect_left(ends, page + 1)] for page in document.pages)
    text, counts = redact(document.text)
    title, more = redact(document.title)
    counts += more
    metadata = dict(document.metadata)
    for name, value in metadata.items():
        if isinstance(value, str) and name != "path":
            metadata[name], more = redact(value)
            counts += more
    if counts:
        metadata["redacted"] = ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items()))
    return replace(document, text=text, title=title, metadata=metadata, pages=pages)
