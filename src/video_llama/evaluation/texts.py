"""What an answer in free words says: the same words, a yes or a no, the letter of an option."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Words that begin an answer; of Chinese, which has no spaces, the first character.
YES = ("yes", "yeah", "yep", "是", "有", "对")
NO_YES = ("对不起", "对不住")  # "sorry", which begins like a yes
NO = ("no", "nope", "不", "没", "否")
_NEGATED = re.compile(r"\b(?:no|not|none|nothing|never|cannot|without)\b|n['’]t\b")
_OPENING = r"[\s*\"'\[(（]*"  # what may stand before a letter
_AFTER_LETTER = re.compile(  # words that show a letter before them to be an option
    r"[^\S\n]+(is|because|since|would)\b(?!-)(?!\s+(?:not|wrong|incorrect|false)\b)"
)
# Words that no article stands before, and those that "I" is not the subject of either.
_NO_NOUNS = {
    "A": ("is", "because", "since", "as", "would", "and", "or", "for", "but"),
    "I": ("is", "because", "since"),
}
# After the letter of "it's B"; "it's B flat" is music.
_LETTER_ENDS = r"(?=\s*(?:[.,;:!?)）\]*\"'\n]|$)|\s+(?:because|since)\b)"
_NOT_DENIED = r"(?!\s+(?:is|was)\s+(?:not|wrong|incorrect|false)\b)"
_SENTENCE_END = re.compile(r"[.!?;。！？；\n]")


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, numbers up to twelve as digits."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"(?<=\w)['’](?=\w)", "", text)  # don't -> dont, dog's -> dogs
    text = "".join(" " if unicodedata.category(letter)[0] in "PSZC" else letter for letter in text)
    words = [NUMBERS.get(word, word) for word in text.split() if word not in ARTICLES]
    return " ".join(words)


def same_words(prediction: str, reference: str) -> bool:
    """Whether both are the same once normalised; what has no words is like nothing."""
    said = normalise(prediction)
    return bool(said) and said == normalise(reference)


def says(prediction: str, reference: str) -> bool:
    """Whether the words of the reference stand in the prediction, in a row.

    Of a reference that is yes or no, it is whether the prediction means it: "no" stands in many an
    answer that says yes.
    """
    wanted = normalise(reference)
    if wanted in ("yes", "no"):
        return yes_or_no(prediction) == wanted
    said = normalise(prediction)
    if not wanted.isascii():
        return bool(wanted) and wanted in said
    return bool(wanted) and f" {wanted} " in f" {said} "


def yes_or_no(text: str) -> str | None:
    """ "yes", "no", or None where the answer says neither.

    The first word counts; else, in the first sentence, one of the two words if it stands there
    alone; else a negation, which is a no. An affirmation without the word is None: the published
    script of POPE takes it for a yes.
    """
    text = text.strip().lower().lstrip("*\"'“‘([ ")
    for word in NO_YES:
        text = text.removeprefix(word).lstrip("，,。.！! ")
    for answer, beginnings in (("yes", YES), ("no", NO)):
        for word in beginnings:
            rest = text.removeprefix(word)
            if rest != text and not (word.isascii() and re.match(r"\w", rest)):
                return answer
    sentence = _SENTENCE_END.split(text, maxsplit=1)[0]
    found = {word for word in re.findall(r"\w+", sentence) if word in ("yes", "no")}
    if found == {"yes"}:
        return "yes"
    return "no" if _NEGATED.search(sentence) and "yes" not in found else None


def chosen_option(text: str, options: Sequence[str]) -> int | None:
    """The number of the option an answer takes; None where it takes none, or more than one.

    Read in this order: the letter it is said to be, as in "the answer is B" or "answer: b";
    letters in parentheses, a letter the answer begins with, as in "B." or "B is right", and that of
    "it's B", all together; the text of an option.
    """
    letters = LETTERS[: len(options)]
    text = text.strip()
    named = {
        *_letters(rf"\b(?:answer|option|choice)(?:\s+is)?\s*:?{_OPENING}", text, letters),
        *re.findall(rf"\b(?i:option|choice)\s+{_OPENING}([{letters}])(?!\w){_NOT_DENIED}", text),
        *_letters(rf"\banswer(?:\s+is\s*:?|\s*:){_OPENING}", text, letters.lower()),
    }
    named = named or {
        *re.findall(rf"[(（\[]([{letters}])[)）\]]", text),
        *_leading_letter(text, letters, options),
        *re.findall(rf"\b[Ii]t(?:['’]s|\s+is)\s+{_OPENING}([{letters}]){_LETTER_ENDS}", text),
    }
    if named:
        return letters.index(named.pop()) if len(named) == 1 else None
    held = {number for number, option in enumerate(options) if says(text, option)}
    # "a dog" stands in "a dog and a cat": the longer one was meant.
    held -= {
        inner
        for inner in held
        for outer in held
        if normalise(options[inner]) != normalise(options[outer])
        and says(options[outer], options[inner])
    }
    return held.pop() if len(held) == 1 else None


def _letters(before: str, text: str, letters: str) -> Iterator[str]:
    """Letters, in capitals, that stand alone after a pattern; "A" before another word of the line
    is an article."""
    for match in re.finditer(
        rf"(?i:{before})([{letters}])(?!\w){_NOT_DENIED}(?:[^\S\n]+(\w+))?", text
    ):
        letter, word = match.group(1).upper(), match.group(2)
        if word is None or _is_letter(letter, word):
            yield letter


def _is_letter(letter: str, word: str) -> bool:
    """Whether a letter that stands before a word is one, and no article or person."""
    return word.lower() in _NO_NOUNS.get(letter.upper(), (word.lower(),))


def _leading_letter(text: str, letters: str, options: Sequence[str]) -> Iterator[str]:
    """The letter, in capitals, that an answer begins with, if it is no word of a sentence."""
    match = re.match(rf"{_OPENING}([{letters}{letters.lower()}])(?!['’]?\w)(.*)", text, re.DOTALL)
    if match is None:
        return
    letter, rest = match.groups()
    if not re.match(r"[^\S\n]+\w", rest):
        yield letter.upper()
        return
    chosen = _AFTER_LETTER.match(rest)
    if chosen and _is_letter(letter, chosen.group(1)):
        yield letter.upper()
    # "A man runs" begins with an article, "A the man runs" with a letter and its option.
    elif letter.isupper() and says(rest, options[letters.index(letter)]):
        yield letter
