"""Stems against NLTK's on made-up words, tokens by what they must never lose, lemmas by cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from sklearn.feature_extraction.text import CountVectorizer

from shared.corpora import porter_pairs
from week12 import porter
from week12.porter import measure, pattern, repaired, stem
from week12.preprocessing import STOP_WORDS, Lemmatizer, terms, tokenize, words

ENDINGS = [*porter.STEP_2, *porter.STEP_3, *porter.STEP_4, "bli", "logi", "eed", "ed", "ing"]
ENDINGS += ["at", "bl", "iz", "sses", "ies", "ss", "s", "y", "e", "ll", ""]
made_up = st.builds(
    lambda start, ends: start + "".join(ends),
    st.text("abcehlosty", max_size=6),
    st.lists(st.sampled_from(ENDINGS), max_size=3),
)
ORIGINAL = PorterStemmer(mode=PorterStemmer.ORIGINAL_ALGORITHM)
REVISED = PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS)


@given(made_up.filter(bool))
def test_stems_of_made_up_words_equal_nltks(word):
    assert stem(word, revised=True) == REVISED.stem(word)
    if len(word) > 2:  # shorter ones end NLTK with an IndexError
        assert stem(word) == ORIGINAL.stem(word)


def test_the_published_vocabulary():
    assert [(word, stem(word)) for word, _ in porter_pairs()] == porter_pairs()


@pytest.mark.parametrize(
    ("word", "paper", "program", "nltk"),
    [  # at least three algorithms carry the name
        ("possibly", "possibli", "possibl", "possibl"),
        ("apology", "apologi", "apolog", "apolog"),
        ("says", "sai", "sai", "say"),
        ("as", "a", "as", "as"),
        ("is", "i", "is", "is"),
    ],
)
def test_three_algorithms_of_one_name(word, paper, program, nltk):
    assert (stem(word), stem(word, revised=True), PorterStemmer().stem(word)) == (
        paper,
        program,
        nltk,
    )


def test_the_examples_of_the_paper():
    assert [measure(w) for w in ("tr", "trees", "ivy", "troubles", "orrery")] == [0, 1, 1, 2, 2]
    assert pattern("syzygy") == "cvcvcv"
    examples = "caresses ponies ties feed agreed plastered bled motoring sing conflated troubled"
    stems = "caress poni ti feed agre plaster bled motor sing conflat troubl"
    assert [stem(word) for word in examples.split()] == stems.split()
    examples = "sized hopping tanned falling hissing fizzed failing filing happy sky"
    stems = "size hop tan fall hiss fizz fail file happi sky"
    assert [stem(word) for word in examples.split()] == stems.split()
    assert [repaired(word) for word in ("conflated", "hopping", "falling")] == [
        "conflate",
        "hop",
        "fall",
    ]
    assert [stem(word) for word in ("", "S", "YYY", "naïves", "数学")] == [
        "",
        "",
        "yyi",
        "naïv",
        "数学",
    ]


@given(st.text(max_size=60))
def test_a_tokenizer_loses_nothing_but_blanks(text):
    assert "".join(tokenize(text)) == "".join(text.split())
    assert all(tokenize(text))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I can't, won't; cannot.", "I ca n't , wo n't ; can not ."),
        ("It's John’s.", "It 's John ’s ."),
        ("See https://a.org/x?y=1, ok", "See https://a.org/x?y=1 , ok"),
        ("$1,000.50 at 10:30 on 4/7/2004", "$ 1,000.50 at 10:30 on 4/7/2004"),
        ("wow!!! so... :-)", "wow !!! so ... :-)"),
        ("Dr. No vs. the U.S.", "Dr. No vs. the U.S."),
        ("ain't AT&T's", "ai n't AT&T 's"),
        ("", ""),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens.split()


@given(st.text(max_size=60))
def test_words_equal_sklearns(text):
    assert words(text) == CountVectorizer().build_analyzer()(text)


def test_terms_leave_out_stop_words_before_they_are_stemmed():
    assert terms("This was the thing of things") == ["thing", "thing"]
    assert terms("the cats", stop_words=()) == ["the", "cat"]
    assert terms("this") == []
    assert len(STOP_WORDS) == 33
    with pytest.raises(ValueError, match="stop_words must be words, not one string, got the"):
        terms("the cats", stop_words="the")


TABLE = {
    "left": "leave",
    "meeting": "meet",
    "better": "good",
    "older": "old",
    "feet": "foot",
    "browsed": "browse",
}


@pytest.mark.parametrize(
    ("form", "pos", "lemma"),
    [
        ("left", "VERB", "leave"),
        ("left", "ADJ", "left"),
        ("meeting", "NOUN", "meeting"),
        ("Meeting", "VERB", "meet"),
        ("Feet", "NOUN", "foot"),
        ("older", "ADJ", "old"),
        ("better", "ADV", "well"),
        ("browsing", "VERB", "browse"),  # known; Porter's repair gives brows
        ("blogging", "VERB", "blog"),  # unknown: repaired as Porter does
        ("taxes", "NOUN", "tax"),
        ("buses", "NOUN", "buse"),  # unlisted: a rule for -ses would break horses
        ("glass", "NOUN", "glass"),
        ("Paris", "PROPN", "Paris"),
        ("n't", "PART", "not"),
        ("’s", "AUX", "be"),
        ("me", "PRON", "I"),
        ("1,000", "NUM", "1000"),
        ("Whereas", "SCONJ", "whereas"),
        ("s", "NOUN", "s"),
    ],
)
def test_lemmas(form, pos, lemma):
    assert Lemmatizer(TABLE)(form, pos) == lemma


def test_an_empty_form_is_named():
    with pytest.raises(ValueError, match="form must hold at least one character, got ''"):
        Lemmatizer(TABLE)("", "NOUN")
