import pytest

from shared import datasets
from shared.errors import UserError


@pytest.fixture(autouse=True)
def _skip_what_is_absent():
    try:
        for name in (
            *("snowball_porter", "lemmatization_lists", "wnut17", "cranfield"),
            *("blimp", "verilog_eval", "verilog_docs", "ros2_docs"),
        ):
            datasets.fetch(name)
        datasets.path("word_similarity", "simlex999.txt")
        datasets.path("ud_english_ewt", "en_ewt-ud-dev.conllu")
    except UserError as absent:
        pytest.skip(str(absent))


def test_words():
    pairs = dict(datasets.porter_pairs())
    assert len(pairs) == 42_603
    assert (pairs["abolition"], pairs["possibly"]) == ("abolit", "possibli")
    lemmas = datasets.english_lemmas()
    assert (lemmas["mice"], lemmas["running"], lemmas["first"]) == ("mouse", "run", "1")


def test_word_similarity():
    assert datasets.word_similarity()[0] == ("love", "sex", 6.77)
    assert len(datasets.word_similarity("simlex999")) == 999
    questions = datasets.analogies()
    assert sum(map(len, questions.values())) == 19_544
    assert questions["family"][0] == ("boy", "girl", "brother", "sister")
    with pytest.raises(ValueError, match="name must be one of wordsim353, simlex999, got 'men'"):
        datasets.word_similarity("men")


def test_english_ewt():
    sentences = datasets.english_ewt("dev")
    assert (len(sentences), sum(map(len, sentences))) == (2001, 25_147)
    assert sentences[0][3] == ("comes", "come", "VERB")
    assert len({word.pos for sentence in sentences for word in sentence}) == 17
    with pytest.raises(ValueError, match="split must be one of train, dev, test, got 'val'"):
        datasets.english_ewt("val")


@pytest.mark.parametrize(("split", "n"), [("train", 3394), ("dev", 1009), ("test", 1287)])
def test_wnut17(split, n):
    sentences = datasets.wnut17(split)
    assert len(sentences) == n
    assert len({tag for sentence in sentences for _, tag in sentence}) == 13


def test_cranfield_counts_its_questions_in_their_order():
    documents, queries, relevant = datasets.cranfield()
    assert (len(documents), len(queries), len(relevant)) == (1400, 225, 225)
    assert queries[3].name == "4"  # the file calls it 8
    assert queries[2].text.startswith("what problems of heat conduction in composite slabs")
    assert "conduction" in documents[4].text
    assert "5" in relevant["3"]
    assert [document.name for document in documents if not document.text] == ["471", "995"]


def test_verilog_eval():
    problems = datasets.verilog_eval()
    assert len(problems) == len({p.name for p in problems}) == 143
    assert sum(p.description == "" for p in problems) == 35
    for p in problems:
        assert p.header.startswith("module top_module")
        assert p.header.endswith(");")
        assert p.body.endswith("endmodule")
        assert "module top_module" not in p.body


def test_verilog_benches():
    benches = datasets.verilog_benches()
    assert set(benches) == {p.name for p in datasets.verilog_eval()}
    assert all("module tb" in text and "Mismatches: " in text for text in benches.values())


def test_manuals():
    ros, core = datasets.ros2_docs(), datasets.verilog_docs()
    assert [page.name for page in core] == ["README.md", "picosoc/README.md"]
    assert len(ros) == len({page.name for page in ros}) == 61
    assert all(page.name.endswith(".rst") and len(page.text) > 1000 for page in ros)


def test_blimp():
    pairs = datasets.blimp()
    assert len(pairs) == 67
    assert {len(rows) for rows in pairs.values()} == {1000}
    assert all(good and bad for rows in pairs.values() for good, bad in rows)
