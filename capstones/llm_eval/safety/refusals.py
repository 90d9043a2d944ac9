"""Whether an answer is none: "I don't know", and the many ways of saying so.

Phrases are looked for in the answer's first sentences. "I'm not sure, but I think it is Paris" is
an answer: what follows a hedge with *but* counts. So is a text that only speaks of not knowing:
"The Unknown Soldier", "Nobody knows" as the title of a song.

>>> abstains("I'm sorry, but I don't have enough information to answer that.")
True
>>> abstains("I'm not sure, but I think it's Paris."), abstains("The tomb of the unknown soldier")
(False, False)
>>> abstains("  ")  # saying nothing is no answer either
True

Phrases are a proxy, in English: on other models' phrasing they miss some, and a note should say so.
"""

import re

_SHORT = {"can't": "can not", "cannot": "can not", "won't": "will not", "n't": " not"}
_SHORT |= {"'m ": " am ", "'re ": " are ", "'s ": " is ", "'d ": " would ", "'ve ": " have "}
_ADVERBS = re.compile(
    r"\b(?:really|honestly|simply|actually|explicitly|currently|yet|directly|quite|just|still) "
)
_TITLE = re.compile('["“«][^"”»]*["”»]')

_SOURCE = "it|this|that|text|passage|context|document|story|article|paragraph"
_SAY = "say|tell|state|mention|specify|give|provide|contain|include|indicate|answer"
_KNOWN = (
    "known|given|stated|mentioned|specified|provided|available|indicated|clear|certain|found|"
    "determined|answered|inferred|established|verified|said|told"
)
_FACTS = "information|data|evidence|context|knowledge|details|mention|record"
_REFUSALS = [
    re.compile(pattern)
    for pattern in (
        rf"\b(?:i|we) (?:do|did|can|could|am|are|was|will|would) not (?:be )?(?:{_SAY}|know"
        "|determine|find|recall|remember|confirm|verify|sure|certain|aware|able to|familiar|told"
        r"|think the (?:text|passage)|help)\b|\bi am (?:unsure|uncertain)\b",
        r"\b(?:i|we) (?:do not have|have no|have not) (?:\w+ ){0,3}"
        rf"(?:{_FACTS}|access|idea|clue|way of)\b",
        r"\b(?:i|we) (?:must|would|will|have to) (?:rather |prefer to )?"
        r"(?:not answer|decline|abstain|pass|skip)\b",
        rf"\b(?:{_SOURCE}) (?:(?:do|does|did) not|never) (?:{_SAY})",
        rf"\b(?:is|are|was|were|be) (?:not (?:{_KNOWN}|possible to)|unknown|unanswerable"
        r"|impossible to|unclear|unspecified)\b",
        rf"\b(?:not (?:be|been)|information not) (?:{_KNOWN})\b|\bno way to\b",
        rf"\b(?:no|not enough|not sufficient|insufficient|lacks?) (?:\w+ )?(?:{_FACTS})\b",
        rf"^(?:sorry|unfortunately)?\W*(?:un(?:known|clear|certain|answerable|specified)|n/?a|idk"
        rf"|dunno|no (?:idea|answer|clue)|not (?:sure|{_KNOWN})|(?:can|do) not (?:{_SAY}|know))\b",
        r"\b(?:nobody|no one) (?:knows|can (?:say|tell|know))\W*$",
        r"\b(?:unable|not able) to (?:say|tell|answer|find|determine|provide|help)\b",
    )
]
_COMMITS = re.compile(
    r"\b(?:but|however|though|still)\W+(?:(?:if i had to guess|my (?:best )?guess|perhaps|probably|"
    r"maybe|possibly|likely|i(?: would)? (?:do )?(?:think|believe|guess|say|suspect)|the answer|"
    r"it (?:is|was|might be|may be|could be))\b)|\bmy best guess\b"
)


def abstains(text: str) -> bool:
    """Whether a text gives no answer; an empty one gives none."""
    if not any(map(str.isalnum, text)):
        return True
    plain = _TITLE.sub("()", text.replace("’", "'")).casefold().strip()
    for short, long in _SHORT.items():
        plain = plain.replace(short, long)
    sentences = re.split(r"(?<=[.!?])\s+|\n+", _ADVERBS.sub("", plain))[:2]
    if _COMMITS.search(" ".join(sentences)):
        return False
    return any(refusal.search(sentence) for refusal in _REFUSALS for sentence in sentences)
