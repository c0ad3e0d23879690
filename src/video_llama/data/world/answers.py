"""Questions with known answers, and whether an answer that was given is right.

An answer is right when it says the facts, not when it is letter by letter the same: every word of
the classes that a question is about is looked up in it, and those words must be the expected ones.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from video_llama.data.world.things import (
    COLOURS,
    COLOURS_ZH,
    COUNTS,
    COUNTS_ZH,
    MOTION_WORDS,
    MOTIONS,
    NAMED,
)

Language = Literal["en", "zh"]

NO_SOUND = "no sound"
NO_PICTURE = "no picture"
NO_COLOUR = "no colour"  # of a photograph: colours are known of drawn things alone


@dataclass(frozen=True)
class QA:
    """A question about a scene, its answer in the fixed form of its kind, and what decides.

    `answer_words` are the expected words, in English whatever the language, of the word classes in
    `classes` ("thing", "colour", "count", "several" (count above one), "motion", "missing",
    "yesno"); `ordered` says whether their order matters.
    """

    kind: str
    language: Language
    question: str
    answer: str
    answer_words: tuple[str, ...]
    classes: tuple[str, ...]
    ordered: bool = False


def score(qa: QA, answer_text: str) -> bool:
    """Whether an answer in free words is right; of yes or no, only the first word counts."""
    found = words_in(answer_text, qa.language, qa.classes)
    if qa.classes == ("yesno",):
        return found[:1] == list(qa.answer_words)
    if qa.ordered:
        return found == list(qa.answer_words)
    return set(found) == set(qa.answer_words)


def words_in(text: str, language: Language, classes: tuple[str, ...]) -> list[str]:
    """The words of some classes in a text, in order, as English names (a plural as singular)."""
    pattern, names = _lexicon(language, classes)
    return [names[match.group()] for match in pattern.finditer(text.strip().lower())]


@lru_cache(maxsize=64)
def _lexicon(language: str, classes: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    names: dict[str, str] = {}
    for word_class in classes:
        names |= _surfaces(language, word_class)
    spelled = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    if classes == ("yesno",):  # at the start only
        return re.compile(rf"^(?:{spelled})" + (r"\b" if language == "en" else "")), names
    return re.compile(rf"\b(?:{spelled})\b" if language == "en" else spelled), names


def _surfaces(language: str, word_class: str) -> dict[str, str]:
    """Every spelling of every word of a class, and the word's name."""
    english = language == "en"
    if word_class == "thing":
        if english:
            return {s: t.name for t in NAMED.values() for s in (t.name, t.plural)}
        return {t.chinese: t.name for t in NAMED.values()}
    if word_class == "colour":
        return {c: c for c in COLOURS} if english else {zh[0]: c for c, zh in COLOURS_ZH.items()}
    if word_class in ("count", "several"):
        first = 0 if word_class == "count" else 1
        words = COUNTS if english else COUNTS_ZH
        names = {words[i]: COUNTS[i] for i in range(first, len(COUNTS))}
        names |= {str(i + 1): COUNTS[i] for i in range(first, len(COUNTS))}
        return names if english else names | {"二": "two"}
    if word_class == "motion":
        return (
            {m: m for m in MOTIONS} if english else {w.key_zh: m for m, w in MOTION_WORDS.items()}
        )
    if word_class == "missing":
        if english:
            return {
                NO_SOUND: NO_SOUND,
                NO_PICTURE: NO_PICTURE,
                "cannot tell the colour": NO_COLOUR,
            }
        return {"没有声音": NO_SOUND, "没有画面": NO_PICTURE, "说不出颜色": NO_COLOUR}
    if word_class == "yesno":
        if english:
            return {"yes": "yes", "no": "no"}
        return {"是": "yes", "有": "yes", "对": "yes", "不": "no", "没": "no", "否": "no"}
    raise AssertionError(word_class)
