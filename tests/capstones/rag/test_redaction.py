"""Secrets go, lookalikes stay, and what points into the text moves with it."""

import random
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.documents.redaction import find, redact, redacted
from rag.types import Document
from shared import datasets

_KEY = "-----BEGIN {0}PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0B\n-----END {0}PRIVATE KEY-----"
SECRETS = {
    "EMAIL": """ada@example.org|Ada.Lovelace+tea@mail.example.co.uk
        |<bob_99@sub-domain.example.com>|mailto:c.d@e.io?subject=x|o'neil@example.ie
        |jürgen@example.de|x@163.com.|"q@example.info",""",
    "PHONE": """+1 (555) 010-9999|+44 20 7946 0958|+49-30-901820-0|+33 1 23 45 67 89
        |(212) 555-0187|212-555-0187|212.555.0187|1-800-555-0199|+4915112345678|020 7946 0958
        |+91 98765 43210|030/9018 2000|+1-202-555-0143.""",
    "CARD": """4111111111111111|4111 1111 1111 1111|5555-5555-5555-4444|378282246310005
        |3782 822463 10005|6011 1111 1111 1117|3530111333300000|30569309025904
        |2223003122003222|4111 1111 1111 1111 12/27|5555-5555-5555-4444 123""",
    "IBAN": """DE89 3704 0044 0532 0130 00|GB82WEST12345698765432
        |FR14 2004 1010 0505 0001 3M02 606|NL91ABNA0417164300|CH93 0076 2011 6238 5295 7
        |NO93 8601 1117 947|ES9121000418450200051332""",
    "IP": """192.168.1.17|8.8.4.4:53|10.0.0.1/24|2001:db8:85a3::8a2e:370:7334
        |fe80::1ff:fe23:4567:890a|[2001:db8::1:0:1]|203.0.113.9,""",
    "TOKEN": """AKIAIOSFODNN7EXAMPLE|ghp_16C7e42F292c6912E7710c838347Ae178B4a
        |sk-proj-4fJ2kLm9QwErTyUiOpAsDf|sk-3b1f5c9d7e2a4b6c8d0e1f2a3b4c5d6e
        |xoxb-123456789012-abcDEF|glpat-AbC123dEf456GhI789jK
        |eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U
        |AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY|hf_aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFg
        |sk_live_4eC39HqLyjWDarjtT1zdp7dc|npm_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xYz
        |github_pat_11ABCDEFG0abcdefghijklmnopqrstuvwxyz""",
    "PASSWORD": "postgres://ada:s3cret@db.example.org/x|https://user:p%40ss@host/path",
    "PRIVATE_KEY": "|".join(_KEY.format(kind) for kind in ("", "RSA ", "OPENSSH ", "EC ")),
}
LOOKALIKES = {
    "versions": """1.2.3|v1.2.3.4|version 10.0.19041.1|Release 2.4.6.8|numpy==2.1.0|3.11.7
        |build 6.1.7601.17|chrome/120.0.0.0-beta|pkg@1.2.3|react@18.2.0|1.0.0-rc.1+build.5""",
    "hashes": """d41d8cd98f00b204e9800998ecf8427e|da39a3ee5e6b4b0d3255bfef95601890afd80709
        |e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
        |3f9684509969aee92d5eef9221ec8276e958360c|550e8400-e29b-41d4-a716-446655440000
        |sha256:9f86d081884c7d659a2feaa0c55ad015""",
    "books": """ISBN 978-0-306-40615-7|ISBN 0-306-40615-2|9780306406157|978 3 16 148410 0
        |ISSN 2049-3630|doi:10.1145/3571730|arXiv:1706.03762|10.1109/5.771073""",
    "dates": """2024-01-15|15.01.2024|01/15/2024|2024-01-15T12:30:45Z|12:30:45|20240115123045
        |1700000000|1700000000000|1999-2024|00:1A:2B:3C:4D:5E|Mon 12:34:56.789""",
    "numbers": """4111111111111112|1234 5678 9012 3456|3.14159265358979|1,234,567,890
        |6.02214076e23|1e-10|12345678901234567890|0.4111111111111111|192.168.1|999.999.999.999
        |1.2.3.4.5|123-45|+1.5|100-200-300|DE00 3704 0044 0532 0130 00|0001 0002 0003 0004""",
    "programs": """@dataclass|x@self.weight|q@k.transpose(0, 1)|std::vector|a::b::c|x[1::2]|::
        |127.0.0.1|0.0.0.0|sk-learn-estimator-checks-for-pipelines|user@host
        |git@github.com:ada/tea.git|$HOME/.ssh|sk-2024-release-notes-of-version-12
        |data-key-1234567890123|__init__@py|eyJhbGciOiJub25lIn0|AKIAxyz
        |https://example.org:8080/a@b|hf_hub_download|ghp_short|e.g.@home|127.0.0.1:8000""",
}


FRAMES = ("{}", "Write to {} today.", "x = '{}'\n", "(see: {})", "a\t{}\tb")


def framed(entries):
    return [frame.format(entry.strip()) for entry in entries.split("|") for frame in FRAMES]


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_go(kind):
    kept = [text for text in framed(SECRETS[kind]) if redact(text)[1] != {kind: 1}]
    assert not kept
    for text in framed(SECRETS[kind]):
        clean, _ = redact(text)
        assert f"[{kind}]" in clean
        assert redact(clean) == (clean, {})


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_lookalikes_stay(kind):
    assert not [redact(text) for text in framed(LOOKALIKES[kind]) if redact(text) != (text, {})]


@pytest.mark.parametrize("name", ["pydocs", "cranfield", "names"])
def test_prose_holds_hardly_any(name):
    """At most one in a million characters of a manual, of science and of first names."""
    text = "\n".join(document.text for document in datasets.cranfield().documents)
    if name != "cranfield":
        text = datasets.load_text(name)
    assert len(find(text)) <= len(text) / 1e6


def test_random_numbers_are_no_cards_and_no_accounts():
    """One in ten passes Luhn's rule, one in 97 the other: the rest must stay."""
    rng = random.Random(0)
    numbers = ["4" + "".join(rng.choices(string.digits, k=15)) for _ in range(2000)]
    passed = sum(redact(number)[1]["CARD"] for number in numbers)
    assert passed == sum(stdnum_luhn(number) for number in numbers)
    assert 140 < passed < 260
    accounts = ["DE" + "".join(rng.choices(string.digits, k=20)) for _ in range(2000)]
    expected = sum(int(account[4:] + "1314" + account[2:4]) % 97 == 1 for account in accounts)
    assert sum(redact(account)[1]["IBAN"] for account in accounts) == expected > 5


def stdnum_luhn(number):
    """Luhn's rule with the table that a program of cards would hold."""
    doubled = "0246813579"
    total = sum(int(doubled[int(d)] if i % 2 else d) for i, d in enumerate(number[::-1]))
    return total % 10 == 0


PARTS = st.sampled_from([secret for all_ in SECRETS.values() for secret in all_.split("|")])
TEXTS = st.lists(st.one_of(PARTS, st.text(max_size=5), st.sampled_from([" ", "\n"]))).map("".join)


@given(TEXTS)
def test_what_is_found_is_replaced_and_nothing_else(text):
    found = find(text)
    ends = [0, *(end for _, end, _ in found)]
    assert all(before <= start < end for before, (start, end, _) in zip(ends, found, strict=False))
    clean, counts = redact(text)
    pattern = ".*".join(re.escape(text[a:b]) for a, b in gaps(found, len(text)))
    assert re.fullmatch(pattern, clean, re.S)
    assert counts.total() == len(found)
    assert len(clean) - len(text) == sum(len(kind) + 2 - (b - a) for a, b, kind in found)


def gaps(found, length):
    at = 0
    for start, end, _ in found:
        yield at, start
        at = end
    yield at, length


@given(
    st.lists(
        st.lists(st.sampled_from(["ada@example.org", "+44 20 7946 0958", "tea", "x"]), max_size=4),
        min_size=1,
    )
)
def test_pages_move_with_the_text(pages):
    texts = [" and ".join(page) for page in pages]
    starts = tuple(sum(len(text) + 2 for text in texts[:i]) for i in range(len(texts)))
    clean = redacted(Document("d", "\n\n".join(texts), pages=starts))
    expected = [redact(text)[0] for text in texts]
    ends = [*(start - 2 for start in clean.pages[1:]), len(clean.text)]
    assert [clean.text[a:b] for a, b in zip(clean.pages, ends, strict=True)] == expected


def test_document_says_what_it_held():
    document = Document(
        "mail/ada@example.org.txt",
        "Call +44 20 7946 0958 or write to ada@example.org.",
        "Of ada@example.org",
        {"path": "mail/ada@example.org.txt", "author": "ada@example.org", "year": 1843},
    )
    clean = redacted(document)
    assert clean.id == document.id  # it names the file
    assert clean.text == "Call [PHONE] or write to [EMAIL]."
    assert clean.title == "Of [EMAIL]"
    assert clean.metadata == {
        "path": "mail/ada@example.org.txt",
        "author": "[EMAIL]",
        "year": 1843,
        "redacted": "EMAIL 3, PHONE 1",
    }
    assert redacted(Document("d", "nothing")) == Document("d", "nothing")
