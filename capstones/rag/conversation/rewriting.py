"""Follow-up questions: "And of tuples?" finds nothing until it says what of tuples is asked.

The rules look for what a follow-up lacks. A *reference* points back: "it", "they", "the second
one". An *ellipsis* leaves out the verb or the topic: "Why?", "And for sets?". Such a question gets
the topic's words of the last turns; a question that stands alone, a greeting or thanks get none:
a wrong word in a query costs more than a missing one.

>>> history = [Turn("How does the with statement close a file?", "By calling __exit__().")]
>>> rewrite("And if it raises?", history).query
'And if it raises? with statement close file'
>>> rewrite("What does the del statement do?", history)
Rewritten(query='What does the del statement do?', changed=False, why='stands alone')
>>> rewrite("Thanks!", history).why
'small talk'
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from rag.types import Turn
from week12.porter import stem
from week12.preprocessing import STOP_WORDS

# A text of such words only that has one of the first kind asks nothing.
POLITE = (
    "hello hi hey hiya howdy greetings morning afternoon evening thanks thank thx cheers great"
    " perfect nice cool awesome wonderful excellent ok okay bye goodbye later understood yes no"
    " sure fine helpful helps sense mind welcome got see good"
)
FILLING = (
    "day night you i it makes never please how are doing today very so much a lot again for your"
    " the that help helping answer there everyone all is was this me s m nevermind really"
)
REFERENCE = re.compile(
    r"\b(?:it|its|itself|they|them|their|theirs|he|she|him|her|his|those|these|such an?"
    r"|(?:write|make|create|define|use|have|get|need|build|find) one|another (?:one|way|example)"
    r"|which (?:one|of)|the (?:first|second|third|last|other|previous) (?:one|two)"
    r"|the (?:others|former|latter)|the same (?:apply|applies|holds?|true|happens?|things?|for)"
    r"|(?:this|that) (?:one|case|way|error|exception|method|function|statement|class|mode|rule"
    r"|behaviou?r|operator|value|variable|keyword|object|clause|example|difference|different"
    r"|better|worse|faster|slower|safe|new|happen\w*|mean\w*|work\w*|raise\w*|do|does|is|also|too"
    r"|apply|hold|true|allowed|possible|still)"
    r"|(?:do|does|did|is|was|can|could|would|why|about|like|for|of|with|in|after|before|at|by|to)"
    r" (?:this|that|there)\b(?! \w+ \w+ \w+)|(?:this|that)(?=\s*[?.!]?$))\b",
    re.IGNORECASE,
)
# "It" that stands for nothing: "Is it possible to …", "What does it mean to …".
EMPTY_IT = re.compile(
    r"\b(?:is|was|does|would|can|how long does|what does|when is|why is) it"
    r" (?:(?:im)?possible|allowed|legal|ok(?:ay)?|safe|necessary|mean|take|better|good|bad|matter"
    r"|important|cost|an? error|common|required|wrong|right|true|raining) ?(?:to|if|that|for|when"
    r"|whether)\b",
    re.IGNORECASE,
)
BEGINS = re.compile(
    r"\W*(?:and|but|or|so|then|also|what about|how about|what if|what else|anything else|why not"
    r"|for (?:example|instance)|more|tell me more|go on|continue|such as|like what|any|even)\b",
    re.IGNORECASE,
)
ELLIPSIS = re.compile(
    r"\W*(?:why|how|when|where|who|which|really|how so|how come|since when|how many|how much"
    r"|what for|what kind|(?:in|on|for|with|without|of|by|from|under|inside|outside|after|before"
    r"|to) .{1,40}|(?:can|could) you (?:explain|elaborate|show|give|repeat|say|clarify).{0,30}"
    r"|(?:an? |some |another |one )?(?:examples?|details?|more)(?: please)?|explain|elaborate"
    r"|not .{1,30})\W*",
    re.IGNORECASE,
)
EMPTY = (
    "what which who whom whose how why when where does did has had have can could may might must"
    " should would will shall your you me my we us our about tell explain show give mean means"
    " meant happen happens there any some more than from its do so also just please example"
    " examples use used using way ways get gets it they them he she those kind kinds one ones am"
    " much many very between difference"
)
WORD = re.compile(r"[^\W\d][\w.]*\w|\w\*{0,2}|[\w*@+<>=]{2,}")
POLITE_WORDS, FILLING_WORDS = frozenset(POLITE.split()), frozenset(FILLING.split())
EMPTY_WORDS = STOP_WORDS | frozenset(EMPTY.split())
MOST = 8  # words of a topic


class Rewritten(NamedTuple):
    """What to search for instead of a question, and why."""

    query: str
    changed: bool
    why: str


def is_small_talk(text: str) -> bool:
    """Whether a text greets, thanks or agrees, and asks nothing."""
    said = set(re.findall(r"[^\W_]+", text.lower()))
    return bool(said & POLITE_WORDS) and said <= POLITE_WORDS | FILLING_WORDS


def rewrite(question: str, history: Sequence[Turn]) -> Rewritten:
    """A question with what it takes from the last turns, if it takes anything."""
    if is_small_talk(question):
        return Rewritten(question, False, "small talk")
    if not history:
        return Rewritten(question, False, "nothing before it")
    why = depends(question)
    if not why:
        return Rewritten(question, False, "stands alone")
    said = {stem(word.lower()) for word in WORD.findall(question)}
    topic = [word for word in _topic(history) if stem(word.lower()) not in said]
    if not topic:
        return Rewritten(question, False, "the last turns name no topic")
    return Rewritten(f"{question} {' '.join(topic)}", True, why)


def depends(question: str) -> str:
    """Why a question cannot be understood alone; empty if it can."""
    text = EMPTY_IT.sub("", question)
    # Within quotes and backticks "it" is a name.
    text = re.sub(r"`[^`]*`|\"[^\"]*\"", "", text)
    if ELLIPSIS.fullmatch(text):
        return "an ellipsis"
    match = REFERENCE.search(text)
    # After a subject and a verb of the same question, "its" most often refers to these.
    most = 1 if match and text[match.end() :].strip(" ?.") else 2
    if match and len(_words(text[: match.start()])) <= most:
        return "a reference"
    if BEGINS.match(text) and len(_words(text)) <= 4:
        return "an ellipsis"
    return ""


def _topic(history: Sequence[Turn]) -> list[str]:
    """Words of the last question that stands alone and of the follow-ups since, newest last."""
    since: list[str] = []
    for turn in reversed(history):
        if is_small_talk(turn.question):
            continue
        since = _words(turn.question) + since
        if not depends(turn.question):
            break
    return list({stem(word.lower()): word for word in since}.values())[:MOST]


def _words(text: str) -> list[str]:
    """Words that carry a topic, in order; "with" does in "the with statement"."""
    found = []
    for match in WORD.finditer(text):
        word, empty = match[0], match[0].lower() in EMPTY_WORDS
        named = re.match(r"[\"'`]? (?:statement|clause|keyword|operator|loop)", text[match.end() :])
        if len(word) > 1 and (named or not empty):
            found.append(word)
    return found
