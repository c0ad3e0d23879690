"""Captions: CIDEr, and what it would be for captions that belong to other media."""

from collections.abc import Sequence

from video_llama.evaluation.cider import cider
from video_llama.evaluation.task import Answered, Measured


def measure_captions(answered: Sequence[Answered]) -> Measured:
    """CIDEr-D, and the mean number of words."""
    scores, chance = caption_scores(answered)
    words = sum(len(one.prediction.split()) for one in answered) / len(answered)
    return Measured(
        metrics={"cider": round(sum(scores) / len(scores), 4), "words": round(words, 2)},
        chance={"cider": chance},
        right=tuple(round(score, 4) for score in scores),
        chance_rule="a true caption of another medium",
    )


def caption_scores(answered: Sequence[Answered]) -> tuple[list[float], float]:
    """CIDEr-D of each answer, and its mean for the first reference of the next question."""
    references = [one.question.references for one in answered]
    shifted = [captions[0] for captions in references[1:] + references[:1]]
    chance = cider(shifted, references)
    return (
        cider([one.prediction for one in answered], references),
        round(sum(chance) / len(chance), 4),
    )
