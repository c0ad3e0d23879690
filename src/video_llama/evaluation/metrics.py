"""How good answers are: shares of right ones, by kind of question, beside the chance level.

Every share is of the answers that were given; what could not be asked is counted elsewhere.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from video_llama.evaluation.task import Answered, Measured
from video_llama.evaluation.texts import chosen_option, normalise, same_words, says, yes_or_no

Rows = Sequence[Answered]


def measure_open(answered: Rows) -> Measured:
    """Answers in a few free words.

    "exact" is the share of answers that are a reference once both are normalised, "contains" of
    those that say one among other words. Chance is the commonest reference of each kind.
    """
    contains = tuple(_any(says, one) for one in answered)
    return Measured(
        metrics=with_kinds(answered, _open_shares),
        chance=_open_shares(_always_commonest(answered)),
        right=contains,
        chance_rule="always the commonest answer of the kind",
    )


def measure_yes_no(answered: Rows) -> Measured:
    """Yes or no. "yes_share" is how often yes was said, "yes_true" how often it is right."""
    metrics = with_kinds(answered, yes_no_shares)
    true = metrics["yes_true"]
    return Measured(
        metrics=metrics,
        chance={"accuracy": round(max(true, 1 - true), 4), "f1": metrics["f1_always_yes"]},
        right=tuple(yes_or_no(one.prediction) == _label(one) for one in answered),
        chance_rule="accuracy: always the commoner answer; f1: always yes",
    )


def measure_choice(answered: Rows) -> Measured:
    """Multiple choice. "unclear" is the share of answers that take no option, or several."""
    chance = _share(1 / len(one.question.options) for one in answered)
    return Measured(
        metrics=with_kinds(answered, _choice_shares),
        chance={"accuracy": chance},
        right=tuple(_chose_right(one) for one in answered),
        chance_rule="an option at random",
    )


def by_kind(answered: Rows) -> dict[str, list[Answered]]:
    """Answers by the kind of their question, in the order of the kinds' names."""
    rows: dict[str, list[Answered]] = defaultdict(list)
    for one in answered:
        rows[one.question.kind].append(one)
    return dict(sorted(rows.items()))


def with_kinds(answered: Rows, shares: Callable[[Rows], dict[str, Any]]) -> dict[str, Any]:
    """Metrics of all answers, and under "by_kind" of each kind where there is more than one."""
    metrics = shares(answered)
    kinds = by_kind(answered)
    if len(kinds) > 1:
        metrics["by_kind"] = {
            kind: {"n": len(rows), **shares(rows)} for kind, rows in kinds.items()
        }
    return metrics


def yes_no_shares(answered: Rows) -> dict[str, Any]:
    """Accuracy, precision, recall and F1 of yes, and how often yes was said and is right.

    An answer that says neither is wrong and counted as "unclear", never as a yes.
    """
    return label_shares(answered, yes_or_no)


def label_shares(answered: Rows, read: Callable[[str], str | None]) -> dict[str, float]:
    """The same of answers that are read in another way: "yes", "no", or None for neither."""
    pairs = [(read(one.prediction), _label(one)) for one in answered]
    said = sum(answer == "yes" for answer, _ in pairs)
    true = sum(label == "yes" for _, label in pairs)
    both = sum(answer == label == "yes" for answer, label in pairs)
    return {
        "accuracy": _share(answer == label for answer, label in pairs),
        "precision": _ratio(both, said),
        "recall": _ratio(both, true),
        "f1": _ratio(2 * both, said + true),
        "f1_always_yes": _ratio(2 * true, len(pairs) + true),
        "yes_share": _ratio(said, len(pairs)),
        "yes_true": _ratio(true, len(pairs)),
        "unclear": _share(answer is None for answer, _ in pairs),
    }


def _open_shares(answered: Rows) -> dict[str, Any]:
    return {
        "exact": _share(_any(same_words, one) for one in answered),
        "contains": _share(_any(says, one) for one in answered),
    }


def _choice_shares(answered: Rows) -> dict[str, Any]:
    chosen = [chosen_option(one.prediction, one.question.options) for one in answered]
    return {
        "accuracy": _share(map(_chose_right, answered)),
        "unclear": _share(choice is None for choice in chosen),
    }


def _chose_right(one: Answered) -> bool:
    options = one.question.options
    chosen = chosen_option(one.prediction, options)
    return chosen is not None and options[chosen] == one.question.references[0]


def _any(test: Callable[[str, str], bool], one: Answered) -> bool:
    return any(test(one.prediction, reference) for reference in one.question.references)


def _label(one: Answered) -> str:
    return one.question.references[0].strip().lower()


def _always_commonest(answered: Rows) -> list[Answered]:
    """The same questions, each with the answer that fits most questions of its kind."""
    found = []
    for rows in by_kind(answered).values():
        counts = Counter(
            text
            for one in rows
            for text in dict.fromkeys(normalise(text) for text in one.question.references)
        )
        commonest = max(counts, key=lambda text: counts[text], default="")
        found += [replace(one, prediction=commonest) for one in rows]
    return found


def _share(values: Iterable[float]) -> float:
    counted = list(values)
    return _ratio(sum(counted), len(counted))


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
