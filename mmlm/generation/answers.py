"""Answers that mean the same are made equal, as VQAv2's evaluation does: what votes and accuracies compare."""

from __future__ import annotations

import re

_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_DIGITS["none"] = "0"
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# Each without one of its apostrophes. "somebody'd" is the official table's own.
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place, sign in enumerate(word) if sign == "'"
}
_CONTRACTIONS["somebody'd"] = "somebodyd"
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_A_NUMBER = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")


def normalized(answer: str) -> str:
    """An answer without punctuation and articles, in lower case, with digits for numbers up to ten ("Two." → "2").

    As in the official script: a sign becomes a space, but nothing where a space stands beside one of its kind, or where
    a number has a comma; a stop goes unless a digit follows; lost apostrophes are put back ("dont" → "don't").
    """
    answer = " ".join(answer.split("\n")).replace("\t", " ").strip()
    numeric, found = _COMMA_IN_A_NUMBER.search(answer) is not None, answer
    for sign in _PUNCTUATION:
        gone = numeric or f"{sign} " in answer or f" {sign}" in answer
        found = found.replace(sign, "" if gone else " ")
    words = (_DIGITS.get(word, word) for word in _STOP.sub("", found).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
