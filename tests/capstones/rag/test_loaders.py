"""Files of all kinds become text; what cannot be read says why, and nothing crashes."""

import codecs
import io
import json
import os
import random
import zipfile
import zlib

import docx
import pypdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.documents import decoding, docx_text, records
from rag.documents.html_text import html_text
from rag.documents.loaders import KINDS, load_file
from rag.types import Document, Skipped


@pytest.fixture
def load(tmp_path):
    def written(name, data):
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        found = list(load_file(path, id=name))
        for own in found:
            if isinstance(own, Document):
                own.text.encode(), own.title.encode()
                assert own.text.strip()
                assert not set("\0\r") & set(own.text)
                assert list(own.pages) == sorted(own.pages)
            else:
                assert own.reason
                assert "\n" not in own.reason
        return found

    return written


def reason(found):
    (skipped,) = found
    assert isinstance(skipped, Skipped)
    return skipped.reason


# ---- text and its encodings


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("Käse €".encode(), "Käse €", None),
        (codecs.BOM_UTF8 + "Käse".encode(), "Käse", None),
        ("Käse".encode("utf-16"), "Käse", "utf-16"),
        (codecs.BOM_UTF16_BE + "Käse".encode("utf-16-be"), "Käse", "utf-16"),
        ("Käse".encode("utf-32"), "Käse", "utf-32"),
        (b"K\xe4se \x80", "Käse €", "cp1252"),
        (b"K\xe4se \x81", "Käse \x81", "latin-1"),
        (b"a\r\nb\rc\n", "a\nb\nc\n", None),
        (b"page\x0cpage\x1b[0m", "page\x0cpage\x1b[0m", None),
    ],
)
def test_encodings(load, data, text, encoding):
    (found,) = load("a.txt", data)
    assert found.text == text
    assert found.metadata.get("encoding") == encoding
    assert found.metadata["kind"] == "text"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t", "holds no text"),
        ("a.txt", b"ab\0c", "is binary: byte 2 is 0x00"),
        ("a.txt", codecs.BOM_UTF16_LE + b"a", "is not utf-16 text"),
        ("a.txt", codecs.BOM_UTF8 + b"\xff", "is not utf-8-sig text"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0", "is binary: byte 6 is 0x1a"),
        ("unknown", b"K\xe4se", "is not utf-8 text"),
        ("a.html", b"<script>x</script><!-- y -->", "holds no text"),
        ("a.pdf", b"%PDF-1.4\nno", "is not a whole PDF"),
        ("a.pdf", b"hello", "is not a whole PDF"),
        ("a.docx", b"hello", "is not a whole Word document"),
        (
            "a.docx",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest",
            "is encrypted, or of a Word before 2007",
        ),
    ],
)
def test_what_cannot_be_read_says_why(load, name, data, message):
    assert message in reason(load(name, data))


def test_unknown_suffixes_are_read_if_they_are_text(load):
    assert load("LICENSE", "Do as you like.")[0].metadata == {"kind": "text", "path": "LICENSE"}
    assert load("a.TXT", b"K\xe4se")[0].text == "Käse"


def test_large_files_are_refused(load, monkeypatch):
    monkeypatch.setattr(decoding, "LIMIT", 10)
    assert load("a.txt", "x" * 10)[0].text == "x" * 10
    assert reason(load("a.txt", "x" * 11)) == "is too large: 11 bytes, and at most 10 are read"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    assert reason(load_file(tmp_path / "a.txt", id="a")) == "is no file of bytes"
    assert "No such file" in reason(load_file(tmp_path / "b.txt", id="b"))


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Tea\n\nx", "Tea"),
        ("---\nauthor: x\ntitle: 'Hot tea'\n---\n# Other", "Hot tea"),
        ("text\n\n## Late\n", "Late"),
        ("title: no\n", ""),
    ],
)
def test_title_of_markdown(load, text, title):
    assert load("a.md", text)[0].title == title
    assert load("a.md", text)[0].text == text


def test_languages_of_programs(load):
    for name, lang in [
        ("a.py", "py"),
        ("a.H", "c"),
        ("a.tsx", "ts"),
        ("a.rs", "rs"),
        ("a.go", "go"),
    ]:
        assert load(name, "x = 1\n")[0].metadata == {"kind": "code", "path": name, "lang": lang}


# ---- pages of HTML


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a <b>b</b>old</p>c", "a bold\n\nc"),
        ("<h2>a<br>b</h2><p>x<br>y", "## a b\n\nx\ny"),
        ("<ul><li>a<li>b<ol><li>c<li>d</ol></ul>e", "- a\n- b\n  1. c\n  2. d\n\ne"),
        ("<table><tr><th>a<th>b<tr><td>1</td><td>2</td></table>", "a | b\n1 | 2"),
        ("<table><tr><td> <td> <p>a<td>b", "a | b"),
        ("<pre>\nif x:\n    y\n\n</pre>z", "```\nif x:\n    y\n```\n\nz"),
        ("<pre>```</pre>", "~~~~\n```\n~~~~"),
        ("a &lt;b&gt; &amp;amp; &eacute;", "a <b> &amp; é"),
        ("<nav><a>Home</a></nav><p>a<svg><text>x</text></svg><noscript>y</noscript>", "a"),
        ("<script>x()</script><style>y{}</style>a<template><p>z</template>", "a"),
        ("a<nav><p>b", "a\n\nb"),
        ("a<script>b<p>c", "a\n\nc"),
        ("a<!-- <p>b --><p>c", "a\n\nc"),
        ("<p>a", "a"),
        ("", ""),
    ],
)
def test_html(html, text):
    assert html_text(html)[0] == text


def test_encoding_that_a_page_declares(load):
    page = "<meta charset='windows-1251'><title> Чай\n&amp; </title><p>Горячий"
    (found,) = load("a.html", page.encode("cp1251"))
    assert (found.title, found.text) == ("Чай &", "Горячий")
    assert found.metadata == {"kind": "html", "path": "a.html", "encoding": "windows-1251"}
    assert load("a.htm", "<meta charset=nonsense>Käse".encode("cp1252"))[0].text == "Käse"
    for codec in ("idna", "undefined", "zlib", "unicode_escape", "punycode"):  # as an attack may
        assert load("a.htm", f"<meta charset={codec}>K".encode() + b"\xe4\\x")[0].text[0] == "K"
    assert load("a.htm", "<meta charset=latin-1>Käse")[0].text == "Käse"  # it is UTF-8 all the same


# ---- PDF


def make_pdf(*pages, title="", compress=False):
    r"""A PDF, written by hand; in its texts, "\x01" is the ligature of f and i."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding"
        b" << /Type /Encoding /BaseEncoding /WinAnsiEncoding /Differences [1 /fi] >> >>",
    ]
    for i, text in enumerate(pages):
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        place = f"/Parent 2 0 R /MediaBox [0 0 500 500] /Contents {5 + 2 * i} 0 R"
        objects.append(f"<< /Type /Page {place} {resources} >>".encode())
        shown = " T* ".join(f"({line}) Tj" for line in text.split("\n"))
        stream = f"BT /F1 12 Tf 14 TL 50 450 Td {shown} ET".encode("latin-1") if text else b""
        stream = zlib.compress(stream) if compress else stream
        filters = b"/Filter /FlateDecode" if compress else b""
        head = b"<< /Length %d %s >>\nstream\n" % (len(stream), filters)
        objects.append(head + stream + b"\nendstream")
    objects.append(f"<< /Title ({title}) >>".encode())
    data, rows = b"%PDF-1.4\n", "0000000000 65535 f \n"
    for number, body in enumerate(objects, 1):
        rows += f"{len(data):010} 00000 n \n"
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    n = len(objects)
    trailer = (
        f"trailer\n<< /Size {n + 1} /Root 1 0 R /Info {n} 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    )
    return data + f"xref\n0 {n + 1}\n{rows}{trailer}".encode()


@pytest.mark.parametrize("compress", [False, True])
def test_pdf(load, compress):
    pages = ("Of\x01ce hours\nare long", "", "Second to \x01nd")
    found, skipped = load("a.pdf", make_pdf(*pages, title="Hours", compress=compress))
    assert found.text == "Office hours\nare long\n\n\n\nSecond to find"
    assert [found.text[start : start + 6] for start in found.pages] == [
        "Office",
        "\n\nSeco",
        "Second",
    ]
    assert (found.title, found.metadata) == ("Hours", {"kind": "pdf", "path": "a.pdf"})
    assert skipped == Skipped("a.pdf", "holds no text on 1 of 3 pages")


def test_pdf_of_another_program(load):
    """Matplotlib writes the same words with two kinds of embedded fonts."""
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    for kind in (3, 42):
        with matplotlib.rc_context({"pdf.fonttype": kind}):
            figure = Figure()
            figure.text(0.1, 0.5, "Office hours: 9 to 5 for Käse", size=14)
            figure.savefig(stream := io.BytesIO(), format="pdf", metadata={"Title": "Hours"})
        (found,) = load("a.pdf", stream.getvalue())
        assert (found.text, found.title) == ("Office hours: 9 to 5 for Käse", "Hours")


def test_broken_words_are_joined_if_the_document_knows_them(load):
    pages = (
        "A retrie-\nval sys-\ntem, well-\nknown: pre-\ntrained",
        "Retrieval is well-known here.",
    )
    (found,) = load("a.pdf", make_pdf(*pages))
    assert found.text.startswith("A retrieval sys-\ntem, well-known: pre-\ntrained\n\n")
    assert found.text[found.pages[1] :] == "Retrieval is well-known here."


def test_scans_and_encrypted_pdfs_are_named(load):
    assert "no text on its 2 pages: a scan" in reason(load("a.pdf", make_pdf("", "")))
    assert reason(load("a.pdf", make_pdf())) == "holds no pages"
    for user, message in [("secret", "is encrypted: it needs a password"), ("", None)]:
        writer = pypdf.PdfWriter(io.BytesIO(make_pdf("Hours")))
        writer.encrypt(user, "owner", algorithm="RC4-128")
        writer.write(stream := io.BytesIO())
        found = load("a.pdf", stream.getvalue())
        if message:
            assert reason(found) == message
        else:  # who may print but not change it can read it
            assert found[0].text == "Hours"


def test_absurd_pdfs(load):
    loop = make_pdf("a").replace(b"[4 0 R]", b"[2 0 R]")
    assert "is not a whole PDF" in reason(load("a.pdf", loop))
    many = make_pdf("a").replace(b"/Count 1", b"/Count 999999999")
    assert load("a.pdf", many)[0].text == "a"
    bomb = make_pdf("a" * 100_000_000, compress=True)
    assert "is not a whole PDF" in reason(load("a.pdf", bomb))


# ---- Word


def make_docx(change=lambda document: None):
    document = docx.Document()
    change(document)
    document.save(stream := io.BytesIO())
    return stream.getvalue()


NAMES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
)


def with_body(body, before="", extra=None):
    """A document of Word with this XML in its body."""
    xml = f'<?xml version="1.0"?>{before}<w:document {NAMES}><w:body>{body}</w:body></w:document>'
    source, stream = zipfile.ZipFile(io.BytesIO(make_docx())), io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, xml if name == "word/document.xml" else source.read(name))
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return stream.getvalue()


def paragraph(text):
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_docx(load):
    def fill(document):
        document.add_heading("Policy", 0)
        document.add_heading("Refunds", 2)
        document.add_paragraph("We give\tmoney\nback.")
        document.add_paragraph("")
        document.add_paragraph("one", style="List Bullet")
        document.add_paragraph("two", style="List Number")
        table = document.add_table(2, 3)
        for cell, text in zip(table._cells, "abc12", strict=False):
            cell.text = text
        table.cell(0, 1).merge(table.cell(0, 2))
        document.add_paragraph("End", style=document.styles.add_style("Own", 1))
        document.styles["Own"].base_style = document.styles["Heading 3"]

    (found,) = load("a.docx", make_docx(fill))
    assert found.text == (
        "# Policy\n\n## Refunds\n\nWe give money\nback.\n\n- one\n- two\n\n"
        "a | b c\n1 | 2 |\n\n### End"
    )
    assert found.title == "Policy"
    titled = make_docx(lambda d: (d.add_paragraph("x"), setattr(d.core_properties, "title", " T ")))
    assert load("a.docx", titled)[0].title == "T"


def test_docx_holds_what_was_inserted_and_not_what_was_deleted(load):
    run = "<w:r><w:t>{}</w:t></w:r>"
    body = (
        f"<w:sdt><w:sdtContent>{paragraph('control')}</w:sdtContent></w:sdt>"
        f"<w:p><w:ins>{run.format('in')}</w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        f"<w:moveFrom>{run.format('moved')}</w:moveFrom><w:hyperlink>{run.format('link')}</w:hyperlink>"
        f"<w:r><mc:AlternateContent><mc:Choice>{paragraph('box')}</mc:Choice>"
        f"<mc:Fallback>{paragraph('box')}</mc:Fallback></mc:AlternateContent></w:r></w:p>"
    )
    assert load("a.docx", with_body(body))[0].text == "control\n\ninlink\nbox"


def test_absurd_docx(load):
    entities = "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    laughs = with_body(paragraph("&i;"), f'<!DOCTYPE x [<!ENTITY a "lol">{entities}]>')
    assert "is not a whole Word document" in reason(load("a.docx", laughs))
    thief = with_body(paragraph("x&a;"), '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>')
    assert load("a.docx", thief)[0].text == "x"
    deep = with_body("<w:sdt>" * 9000 + "</w:sdt>" * 9000)
    assert "is not a whole Word document" in reason(load("a.docx", deep))
    bomb = with_body("<w:p/>" * 3_000_000)
    assert reason(load("a.docx", bomb)).startswith("unpacks to 18,")
    picture = with_body("", extra={"word/media/x.png": b"\0" * 30_000_000})
    assert reason(load("a.docx", picture)).startswith("unpacks to 30,")
    honest = with_body(paragraph("x"), extra={"word/media/x.png": os.urandom(11_000_000)})
    assert load("a.docx", honest)[0].text == "x"
    assert docx_text.EXPANDED > 30_000_000


# ---- records


def rows(*records):
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


def split(found):
    documents = [f for f in found if isinstance(f, Document)]
    return {d.id: d for d in documents}, [f for f in found if isinstance(f, Skipped)]


def test_json_lines(load):
    nested = {"url": "x", "list": [1]}
    records = (
        {"_id": "d1", "title": "Tea", "text": "Hot.", "metadata": nested, "year": 1},
        {"id": 7, "contents": "Seven"},
        "",
        {"title": "Only a title", "text": ""},
        {"question": "Why?", "answer": {"text": "So"}, "none": None},
        {"text": "\ud800 half", "path": "/etc", "nan": float("nan"), "big": 10**30, "ok": True},
    )
    documents, skipped = split(load("c.jsonl", rows(*records)))
    assert not skipped
    assert [*documents] == [f"c.jsonl/{name}" for name in ("d1", "7", "4", "5", "6")]
    common = {"kind": "record", "path": "c.jsonl"}
    assert documents["c.jsonl/d1"] == Document(
        "c.jsonl/d1", "Hot.", "Tea", {"record": "d1", "url": "x", "year": 1, **common}
    )
    assert documents["c.jsonl/7"].text == "Seven"
    assert (documents["c.jsonl/4"].text, documents["c.jsonl/4"].title) == ("Only a title", "")
    assert documents["c.jsonl/5"].text == 'question: Why?\nanswer: {"text": "So"}'
    assert documents["c.jsonl/6"].text == "\ufffd half"
    assert documents["c.jsonl/6"].metadata == {"record": "6", "ok": True, **common}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "is not JSON (Expecting property name"),
        (b"[" * 100_000, "is not JSON (maximum recursion depth"),
        (b'["list"]', "is no JSON object"),
        (b'"word"', "is no JSON object"),
        (b'{"text": 5}', "is no text under 'text'"),
        (b'{"text": "x", "title": 5}', "is no text under 'title'"),
        (b'{"text": " "}', "holds no text"),
        (b"{}", "holds no text"),
        (b'{"text": "K\xe4se"}', "is not utf-8 text"),
        (b'{"id": "a", "text": "again"}', "has the id of an earlier record, c.jsonl/a"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(load, line, message):
    good = rows({"id": "a", "text": "First"}).encode()
    last = rows({"id": "b", "text": "Last"}).encode()
    documents, skipped = split(load("c.jsonl", good + line + b"\n" + last))
    assert [d.text for d in documents.values()] == ["First", "Last"]
    assert [s.source for s in skipped] == ["c.jsonl, line 2"]
    assert message in skipped[0].reason


def test_a_line_without_end_is_not_read_whole(load, monkeypatch):
    monkeypatch.setattr(records, "LIMIT", 40)
    found = load("c.jsonl", rows({"text": "First"}, {"text": "x" * 50}, {"text": "Last"}))
    assert found[0].text == "First"
    assert found[1:] == [
        Skipped("c.jsonl, line 2", "has over 40 characters; the rest of the file is not read")
    ]


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
def test_tables(load, name):
    table = 'id;text;year;code\nx;"Hot; and\ngreen";1990;007\n\ny;Käse;-1.5;\nz;;;\n'
    table = table.replace(";", "\t") if name == "c.tsv" else table
    documents, skipped = split(load(name, table.encode("cp1252")))
    hot, cheese = documents.values()
    assert hot.text.split() == ["Hot;" if name == "c.csv" else "Hot", "and", "green"]
    assert hot.metadata == {
        "record": "x",
        "year": 1990,
        "code": "007",
        "kind": "record",
        "path": name,
    }
    assert (cheese.id, cheese.text) == (f"{name}/y", "Käse")
    assert cheese.metadata["year"] == -1.5
    assert skipped == [Skipped(f"{name}, line 6", "holds no text")]


def test_tables_without_a_column_of_text_are_written_out(load):
    documents, skipped = split(load("c.csv", "name,,n\ntea,x,1,more\n"))
    assert documents["c.csv/2"].text == "name: tea\ncolumn 2: x\nn: 1\ncolumn 4: more"
    assert not skipped
    assert load("c.csv", "a,b\n") == []
    assert len(load("c.csv", "a\n" + "x" * 200_000)[0].text) == 200_003


# ---- fuzz


@pytest.mark.parametrize(
    "suffix", [".png", *{kind: suffix for suffix, kind in KINDS.items()}.values()]
)
@given(data=st.binary(max_size=200), text=st.text(max_size=100))
def test_random_bytes_never_crash(tmp_path_factory, suffix, data, text):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    for content in (data, text.encode()):
        path.write_bytes(content)
        for found in load_file(path, id="f"):
            assert isinstance(found, Document | Skipped)


def test_torn_and_altered_files_never_crash(load):
    rng = random.Random(0)
    sources = {
        "a.pdf": make_pdf("Of\x01ce hours", "Second", title="T"),
        "b.pdf": make_pdf("Of\x01ce hours", "Second", compress=True),
        "c.docx": make_docx(lambda document: document.add_heading("Policy")),
    }
    seen = set()
    for name, data in sources.items():
        for _ in range(150):
            altered = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.4 else data)
            for _ in range(rng.randrange(20)):
                if altered:
                    altered[rng.randrange(len(altered))] = rng.randrange(256)
            seen |= {(name, type(found)) for found in load(name, bytes(altered))}
    assert seen == {(name, kind) for name in sources for kind in (Document, Skipped)}


ELEMENTS = ("p", "r", "t", "tbl", "tr", "tc", "sdt", "pPr", "numPr", "pStyle", "ins", "tab")


@given(st.lists(st.sampled_from(ELEMENTS)))
def test_any_nesting_of_words_elements_is_read(names):
    body = "".join(f"<w:{name}>x" for name in names) + "".join(
        f"</w:{name}>" for name in names[::-1]
    )
    text, _ = docx_text.docx_text(with_body(body))
    assert set(text) <= set("x-| \n")
