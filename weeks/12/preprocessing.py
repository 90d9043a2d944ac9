r"""From text to words, to stems, to lemmas: what is left of a word when its ending goes.

A *tokenizer* cuts, one regular expression whose first alternative that fits wins. A *stemmer* cuts
off suffixes blindly, so that *connect*, *connected* and *connections* become one term of an index.
A *lemmatizer* looks for the word in the dictionary, $\ell(w, \text{part of speech})$: *left* is
*leave* as a verb and *left* as an adjective. What is listed is looked up, what is regular is left
to rules,

$$\ell(w, p) = \begin{cases} T[w] & \text{if the table has } w \text{ and } p \text{ allows it} \\
  \text{first of } R_p(w) \text{ that is a known lemma} & \text{else, or } w. \end{cases}$$

>>> tokenize("Don't e-mail the U.S. office ($3.50) at a.b@c.org!")
['Do', "n't", 'e', '-', 'mail', 'the', 'U.S.', 'office', '(', '$', '3.50', ')', 'at', 'a.b@c.org',
 '!']
>>> terms("The connections of connected words")  # words, no stop words, stems
['connect', 'connect', 'word']
>>> lemmatizer = Lemmatizer({"left": "leave", "mice": "mouse"})
>>> [lemmatizer("left", pos) for pos in ("VERB", "ADJ")]
['leave', 'left']
>>> [lemmatizer("blogs", "NOUN"), lemmatizer("blogging", "VERB"), lemmatizer("Mice", "NOUN")]
['blog', 'blog', 'mouse']

    uv run weeks/12/preprocessing.py

Source: Manning, Raghavan and Schütze, *Introduction to Information Retrieval* (2008), section 2.2;
rules that propose and a list that disposes: Fellbaum (ed.), *WordNet* (1998), its morphy; the
lemmas are those of Universal Dependencies.
"""

import re
from collections.abc import Iterable, Mapping

from shared.require import require
from week12.porter import repaired, stem

# Lucene's list for English
FUNCTION_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then"
    " there these they this to was will with"
)
STOP_WORDS = frozenset(FUNCTION_WORDS.split())

TOKEN = re.compile(
    r"""(?: https?:// | www\. ) [^\s<>")\]]+ (?<![.,:;!?])  # addresses of pages
    | [\w.+-]+ @ [\w-]+ (?: \.[\w-]+ )*                     # and of people
    | \d+ (?: [.,:/]\d+ )* (?: st | nd | rd | th )? \b      # 3.50, 10:30, 4/7/2004, 5th
    | (?: [A-Za-z]\. ){2,}                                  # U.S.
    | (?: Mr | Mrs | Ms | Dr | Jr | St | vs | etc | Inc | Corp | No ) \. (?! \s* $ )
    | [^\W\d_]+? (?= n['’]t\b )                             # do of don't
    | n['’]t \b | ['’] (?: s | m | d | re | ve | ll ) \b    # clitics
    | can (?= not\b ) | gon (?= na\b ) | wan (?= na\b )     # two words written as one
    | \w+ (?: & \w+ )* | [.]{2,} | -{2,} | ([!?*=_~])\1*    # words, runs of a mark
    | [:;=] -? [()DPp] | \S                                 # smileys, any other character
    """,
    re.VERBOSE | re.IGNORECASE,
)
WORD = re.compile(r"(?u)\b\w\w+\b")


def tokenize(text: str) -> list[str]:
    """Words, numbers, marks and the clitics of English (``n't``, ``'s``), as treebanks cut them."""
    return [match[0] for match in TOKEN.finditer(text)]


def words(text: str) -> list[str]:
    """Runs of two or more letters, digits or underscores, in lower case: the terms of an index."""
    return WORD.findall(text.lower())


def terms(text: str, stop_words: Iterable[str] = STOP_WORDS) -> list[str]:
    """`words` without the stop words, stemmed: what a search engine counts."""
    require(not isinstance(stop_words, str), "stop_words must be words, not one string", stop_words)
    stop_words = frozenset(stop_words)
    return [stem(word) for word in words(text) if word not in stop_words]


# ---- lemmas

BE = dict.fromkeys(["is", "are", "was", "were", "am", "been", "being", "'m", "'re", "m", "r"], "be")
HAVE = dict.fromkeys(["has", "had", "having", "'ve", "ve"], "have")
DO = dict.fromkeys(["does", "did", "doing", "done"], "do")
IRREGULAR = {
    "AUX": BE
    | HAVE
    | DO
    | {"'s": "be", "s": "be", "'ll": "will", "'d": "would", "ca": "can", "wo": "will"},
    "VERB": BE | HAVE | DO | {"'s": "be"},
    "PRON": {"i": "I", "me": "I", "him": "he", "us": "we", "them": "they"}
    | {"these": "this", "those": "that", "u": "you", "'s": "we"},
    "DET": {"an": "a", "these": "this", "those": "that"},
    "PART": {"n't": "not", "nt": "not", "s": "'s", "'": "'s", "na": "to", "ta": "to"},
    "ADJ": {"best": "good", "better": "good", "worse": "bad", "worst": "bad"},
    "ADV": {"best": "well", "better": "well", "worse": "badly", "further": "far"},
}
# The table lists forms of verbs, nouns and adjectives alike: what the ending must be to believe it.
LISTED = {
    "VERB": lambda word: True,
    "NOUN": lambda word: not word.endswith(("ing", "ed", "er", "left", "thought")),
    "ADJ": lambda word: word.endswith(("er", "est")),
    "ADV": lambda word: word.endswith(("er", "est")),
}
# The first ending that a form has goes, and its replacement comes.
PLURALS = [("ies", "y"), *((x + "es", x) for x in ("ss", "sh", "ch", "x")), ("men", "man")]
RULES = {
    "NOUN": [*PLURALS, *((end, end) for end in ("ss", "us", "is")), ("s", "")],
    "VERB": [*PLURALS[:-1], ("ied", "y"), ("ss", "ss"), ("s", ""), ("ing", ""), ("ed", "")],
}


class Lemmatizer:
    """Lemmas by look-up and rules.

    Parameters
    ----------
    table
        Lemma by form, both in lower case.
    """

    def __init__(self, table: Mapping[str, str]):
        self.table, self.known = dict(table), frozenset(table.values())

    def __call__(self, form: str, pos: str) -> str:
        """The lemma of a form with a universal part of speech, such as ``NOUN``.

        Names keep their letters; any other word is taken in lower case, whatever starts a
        sentence.
        """
        require(form, "form must hold at least one character", repr(form))
        word = form.lower().replace("’", "'")
        if word in IRREGULAR.get(pos, {}):
            return IRREGULAR[pos][word]
        if pos in ("PROPN", "SYM", "PUNCT", "X"):
            return form
        if pos == "NUM":
            return word.replace(",", "")
        if pos not in LISTED or (word in self.known and word not in self.table):
            return word
        if word in self.table and LISTED[pos](word):
            return self.table[word]
        return self._by_rule(word, RULES.get(pos, []))

    def _by_rule(self, word: str, rules: Iterable[tuple[str, str]]) -> str:
        for ending, instead in rules:
            if word.endswith(ending) and len(word) > len(ending) + 1:
                rest = word.removesuffix(ending) + instead
                if ending not in ("ing", "ed"):
                    return rest
                # hoped and hopped: the list knows; else as Porter repairs what is left
                found = [x for x in (rest, rest + "e", rest[:-1]) if x in self.known]
                return found[0] if found else repaired(word)
        return word


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
