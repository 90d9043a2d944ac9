"""A report of what was skipped is short, and names everything once."""

from rag.documents.skipped import grouped
from rag.types import Skipped


def test_reasons_are_grouped():
    found = [
        Skipped("z.pdf", "is encrypted: it needs a password"),
        *(Skipped(f"{i}.png", f"is binary: byte {i} is 0x00") for i in range(5)),
        Skipped("x.pdf", "holds no text on its 2 pages: a scan, which needs OCR"),
        Skipped("y.pdf", "holds no text on its 31 pages: a scan, which needs OCR"),
        Skipped("a.txt", "is empty"),
        Skipped("b.txt", "is empty"),
        Skipped("c.txt", "is too large: 9 bytes, and at most 3 are read"),
    ]
    assert grouped(found) == [
        "5 × is binary: 0.png, 1.png, 2.png, …",
        "2 × holds no text on its … pages: x.pdf, y.pdf",
        "2 × is empty: a.txt, b.txt",
        "z.pdf is encrypted: it needs a password",
        "c.txt is too large: 9 bytes, and at most 3 are read",
    ]
    assert grouped([]) == []
    assert len(grouped(found, names=9)[0].split(",")) == 5
