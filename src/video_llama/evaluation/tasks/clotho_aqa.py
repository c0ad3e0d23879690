"""Clotho-AQA (Lipping et al. 2022): questions about everyday sounds, each answered by three people.

    clotho_aqa_test.csv   file_name,QuestionText,answer,confidence   a row for each person
    *.wav                 in any folder, such as audio_files/

A question is of the kind "yes or no" if all people answer so, else "word"; people are "unanimous"
or not. What is right: of yes or no, what most people say; of words, what any of them says. The
questions of yes or no are also measured as such, with the share of yes.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from video_llama.data.sample import require_text
from video_llama.evaluation.files import MediaFolder, csv_rows, find_file
from video_llama.evaluation.metrics import measure_open, yes_no_shares
from video_llama.evaluation.task import Answered, Measured, Medium, Question, QuestionSet, Task

YES_NO = ("yes", "no")


def load(data: Path) -> QuestionSet:
    """The test questions."""
    path = find_file(data, "clotho_aqa_test.csv")
    sounds = MediaFolder(data, "audio")
    answers: dict[tuple[str, str], list[str]] = defaultdict(list)
    keys: dict[tuple[str, str], str] = {}
    for key, row in csv_rows(path, "file_name", "QuestionText", "answer"):
        asked = (
            require_text(key, row["file_name"], "the file's name").strip(),
            require_text(key, row["QuestionText"], "the question").strip(),
        )
        answers[asked].append(require_text(key, row["answer"], "the answer").strip().lower())
        keys.setdefault(asked, key)
    questions = [
        Question(
            id=f"{name}: {text}",
            medium=Medium(sounds.find(keys[name, text], name)),
            text=text,
            references=_references(given),
            kind=_kind(given),
        )
        for (name, text), given in answers.items()
    ]
    return QuestionSet(tuple(questions), (path,))


def measure(answered: Sequence[Answered]) -> Measured:
    """Shares of all questions; of yes or no besides, what is measured of such questions."""
    measured = measure_open(answered)
    yes_no = [one for one in answered if one.question.kind.startswith("yes or no")]
    if not yes_no:
        return measured
    return replace(measured, metrics={**measured.metrics, "yes_no": yes_no_shares(yes_no)})


def _references(given: Sequence[str]) -> tuple[str, ...]:
    counts = Counter(given).most_common()
    if set(given) <= set(YES_NO):
        return (counts[0][0],)
    return tuple(answer for answer, _ in counts)


def _kind(given: Sequence[str]) -> str:
    kind = "yes or no" if set(given) <= set(YES_NO) else "word"
    return f"{kind}, {'unanimous' if len(set(given)) == 1 else 'not unanimous'}"


TASK = Task(
    name="clotho-aqa",
    about="everyday sounds, questions answered by three people",
    expects="clotho_aqa_test.csv and the sounds (.wav)",
    load=load,
    measure=measure,
    max_new_tokens=64,
    open_answers=True,
)
