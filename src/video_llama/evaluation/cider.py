"""CIDEr-D of captions (Vedantam et al. 2015), as caption benchmarks report it: perfect is 10.

Why not a library: pycocoevalcap, which has the published implementation, brings 100 MB of Java, and
has not been released since 2020. The numbers here are its numbers for the same words (tested).
Words are taken as its Java tokenizer takes them: lower case, no punctuation, endings such as
"n't" and "'s" apart, brackets as words of their own ("-lrb-"), the points of common abbreviations
kept. What is rarer, such as smileys, web addresses and currencies, may be divided otherwise.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

MAX_WORDS = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # words; how fast a difference in length is punished
SCALE = 10.0

Ngram = tuple[str, ...]

# What keeps its point, besides single letters ("u.s.", "plan b."): of the tokenizer's list what
# captions may have.
_ABBREVIATIONS = (
    r"mr mrs ms dr jr sr prof messrs bros esq gov hon rep sen pres rev inc ltd co cos corp assn "
    r"dept est univ col maj cpl pvt adm cmdr gen lt sgt capt det insp supt pfc st ave blvd rd sq "
    r"mt ft vs etc al cf ca ext tel ph\.d jan feb mar apr jun jul aug sep sept oct nov dec mon tue "
    r"tues wed thu thurs fri calif fla ill wash"
)
_WORD = re.compile(
    r"(?<!\w)(?:"
    r"(?:[^\W\d_]\.)+(?!\w)"  # single letters
    rf"|(?:{_ABBREVIATIONS.replace(' ', '|')})\.(?!\w)"
    r"|(?:nos?|fig)\.(?=\s*\d)"
    r")"
    r"|\d+:\d+(?=[ap]m\b)"
    r"|[@#][^\W\d_]\w*"
    r"|(?:\.(?=\d))?[^\W_]+(?:(?:[-_./@]|(?<=\d)[,:](?=\d))[^\W_]+|'[^\W\d_]+)*"
    r"|[!?]{2,}"
    r"|[][(){}<>$%&#@/*+=_|\\~^]"
)
_BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
_ENDING = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))$")
_JOINED = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
}


def caption_words(caption: str) -> list[str]:
    """The words of a caption."""
    words: list[str] = []
    for match in _WORD.finditer(caption.lower().replace("’", "'")):
        word = _BRACKETS.get(match.group(), match.group())
        parts = _ENDING.split(word) if "'" in word else [word]
        for part in filter(None, parts):
            words += _JOINED.get(part, (part,))
    return words


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each prediction; the score of a corpus is their mean.

    How much an n-gram weighs depends on the share of media whose references have it, so a score
    belongs to its whole set of references; for a single medium all scores are 0.

    Args:
        predictions: one caption for each medium.
        references: all true captions of each medium.
    """
    true = [[_ngrams(caption_words(one)) for one in captions] for captions in references]
    having = Counter(ngram for captions in true for ngram in set().union(*captions))
    weigh = _Weights(having, len(true))
    return [
        weigh.score(_ngrams(caption_words(said)), captions)
        for said, captions in zip(predictions, true, strict=True)
    ]


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, MAX_WORDS + 1)
        for start in range(len(words) - n + 1)
    )


class _Weights:
    """Weights of n-grams: how often they are said, times how rare they are among the media."""

    def __init__(self, having: Mapping[Ngram, int], media: int) -> None:
        self.having = having
        self.log_media = math.log(max(media, 1))

    def score(self, said: Counter[Ngram], captions: Iterable[Counter[Ngram]]) -> float:
        scores = [self._likeness(said, caption) for caption in captions]
        return SCALE * sum(scores) / len(scores) if scores else 0.0

    def _likeness(self, said: Counter[Ngram], true: Counter[Ngram]) -> float:
        """Cosine of the weights, the mean over lengths of n-grams; 1 for the same caption."""
        longer = _length(said) - _length(true)
        total = 0.0
        for n in range(1, MAX_WORDS + 1):
            mine, other = self._weigh(said, n), self._weigh(true, n)
            # An n-gram that is said more often than it should be gains nothing by that.
            product = sum(min(mine[g], other[g]) * other[g] for g in mine if g in other)
            norms = _norm(mine) * _norm(other)
            total += product / norms if norms else 0.0
        return total / MAX_WORDS * math.exp(-(longer**2) / (2 * SIGMA**2))

    def _weigh(self, ngrams: Counter[Ngram], n: int) -> dict[Ngram, float]:
        return {
            ngram: count * (self.log_media - math.log(max(1, self.having.get(ngram, 0))))
            for ngram, count in ngrams.items()
            if len(ngram) == n
        }


def _length(ngrams: Counter[Ngram]) -> int:
    """Pairs of neighbouring words, which is what the published implementation compares."""
    return sum(count for ngram, count in ngrams.items() if len(ngram) == 2)


def _norm(weights: Mapping[Ngram, float]) -> float:
    return math.sqrt(sum(weight * weight for weight in weights.values()))
