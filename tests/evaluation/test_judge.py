"""A judge on the loopback: pinned, patient, and never asked twice."""

from pathlib import Path

import pytest

from video_llama.errors import JudgeError, OptionError
from video_llama.evaluation.endpoint import KEY_VARIABLE, JudgeOptions
from video_llama.evaluation.journal import Journal
from video_llama.evaluation.judge import Judge, Verdict, judge_metrics, read_verdict
from video_llama.evaluation.task import Answered, Medium, Question

RIGHT, WRONG = '{"correct": "yes", "score": 5}', '{"correct": "no", "score": 1}'


def answered(prediction, reference="dog"):
    question = Question(prediction, Medium(Path("x")), "What is it?", (reference,))
    return Answered(question, prediction)


@pytest.fixture
def judge(endpoint, tmp_path):
    """`judge(attempts=...)`; its waits are in `judge.waits`."""
    waits = []

    def make(**options) -> Judge:
        settings = JudgeOptions(endpoint.url, "m-1", seed=7, **{"workers": 1, **options})
        return Judge(settings, Journal(tmp_path / "judge.jsonl"), sleep=waits.append)

    make.waits = waits
    return make


def test_the_request_is_pinned(endpoint, judge, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    made = judge()
    assert made.verdicts([answered("a puppy")]) == [Verdict(True, 5.0)]
    (request,) = endpoint.requests
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["seed"], request["temperature"]) == ("m-1", 7, 0)
    text = request["messages"][-1]["content"]
    assert all(part in text for part in ("What is it?", "dog", "a puppy"))
    assert endpoint.keys == ["Bearer secret"]
    described = made.describe()
    assert described["served_by"] == ["judge-of-tests"]
    assert "secret" not in str(described) + made.journal.path.read_text(encoding="utf-8")


def test_what_was_said_is_not_asked_again(endpoint, judge):
    endpoint.replies = [RIGHT, WRONG]
    first = judge().verdicts([answered("a"), answered("b")])
    assert first == [Verdict(True, 5.0), Verdict(False, 1.0)]
    again = judge()
    assert again.verdicts([answered("b"), answered("a")]) == first[::-1]
    assert again.describe()["served_by"] == ["judge-of-tests"]
    assert len(endpoint.requests) == 2
    judge(timeout=5).verdicts([answered("c"), answered("c")])
    assert len(endpoint.requests) == 3, "the same answer twice is one request"


def test_another_seed_is_another_judge(endpoint, tmp_path):
    for seed in (1, 2):
        journal = Journal(tmp_path / "judge.jsonl")
        Judge(JudgeOptions(endpoint.url, "m-1", seed=seed), journal).verdicts([answered("a")])
    assert len(endpoint.requests) == 2


def test_a_busy_endpoint_is_tried_again(endpoint, judge):
    endpoint.replies = [503, 500, 429, RIGHT]
    assert judge().verdicts([answered("a")]) == [Verdict(True, 5.0)]
    short, longer, told = judge.waits
    assert 0.8 <= short <= 1.2
    assert 1.6 <= longer <= 2.4
    assert told >= 0.8 * 7, "Retry-After is heeded"


def test_one_that_stays_busy_is_given_up_and_nothing_is_lost(endpoint, judge):
    endpoint.replies = [RIGHT, 503]
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1:\d+ answers 503, 3 times"):
        judge(attempts=3).verdicts([answered("a"), answered("b")])
    assert len(endpoint.requests) == 4
    endpoint.replies = [WRONG]
    assert judge().verdicts([answered("a"), answered("b")]) == [
        Verdict(True, 5.0),
        Verdict(False, 1.0),
    ]
    assert len(endpoint.requests) == 5


@pytest.mark.parametrize(
    ("status", "hint"), [(401, KEY_VARIABLE), (404, "--judge-model"), (400, "400"), (302, "302")]
)
def test_a_refusal_is_not_tried_again(endpoint, judge, status, hint):
    endpoint.replies = [status]
    with pytest.raises(JudgeError, match=hint):
        judge().verdicts([answered("a")])
    assert len(endpoint.requests) == 1
    assert judge.waits == []


def test_a_request_that_is_refused_is_one_that_cannot_be_read(endpoint, judge):
    """A filter or a limit of the judge's is no reason to have no figures at all."""

    def reply(request):
        return 400 if "filtered" in request["messages"][-1]["content"] else RIGHT

    endpoint.replies = [reply]
    made = judge()
    rows = [answered("filtered"), answered("a"), answered("b")]
    assert made.verdicts(rows) == [None, Verdict(True, 5.0), Verdict(True, 5.0)]
    assert "refuses with 400: too odd" in made.journal.path.read_text(encoding="utf-8")
    endpoint.replies = [RIGHT]
    assert judge().verdicts(rows)[0] == Verdict(True, 5.0)  # asked again by the next run


def test_a_judge_that_refuses_every_request_is_not_asked_them_all(endpoint, judge):
    endpoint.replies = [422]
    with pytest.raises(JudgeError, match="refuses with 422: too odd"):
        judge().verdicts([answered(str(number)) for number in range(50)])
    assert len(endpoint.requests) < 20


def test_nobody_there(judge, endpoint, tmp_path):
    settings = JudgeOptions("http://127.0.0.1:9/v1", "m", attempts=2)
    lonely = Judge(settings, Journal(tmp_path / "x.jsonl"), sleep=lambda _: None)
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1:9 cannot be reached"):
        lonely.verdicts([answered("a")])


def test_several_workers_keep_the_order(endpoint, judge):
    def reply(request):
        return RIGHT if "Given answer: right" in request["messages"][-1]["content"] else WRONG

    endpoint.replies = [reply]
    rows = [answered(f"{'right' if number % 3 else 'wrong'} {number}") for number in range(24)]
    seen = []
    verdicts = judge(workers=6).verdicts(rows, lambda done, total: seen.append((done, total)))
    assert [verdict.correct for verdict in verdicts] == [bool(number % 3) for number in range(24)]
    assert seen[-1] == (24, 24)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (RIGHT, Verdict(True, 5.0)),
        ("```json\n{'correct': 'no', 'score': 2.5}\n```", Verdict(False, 2.5)),
        ('{"correct": true}', Verdict(True, None)),
        ('{"correct": "Yes", "score": 11}', Verdict(True, None)),
        ('{"incorrect": "yes"}', None),
        ("I would say so.", None),
        (f"{WRONG}</think>{WRONG}</think>{RIGHT}", Verdict(True, 5.0)),
        (f"{RIGHT}</think>Well.", None),
        (f"<think>Is it {RIGHT} or", None),
        ('{"correct": "yes"} or {"correct": "no"}', None),
        ("", None),
        ("correct: yes\nscore: 5.", Verdict(True, 5.0)),
        ('{"correct": "yes", "score": 5.}', Verdict(True, 5.0)),
        ('{"correct": "not sure", "score": 2}', None),
        ('{"correct": "no sure answer"}', None),
        ('{"correct": "nothing"}', None),
        ('{"correct": "yesterday"}', None),
    ],
)
def test_reading_a_verdict(reply, verdict):
    assert read_verdict(reply) == verdict


def test_metrics_leave_out_what_cannot_be_read():
    verdicts = [Verdict(True, 5.0), Verdict(False, None), None, Verdict(True, 4.0)]
    assert judge_metrics(verdicts) == {
        "n": 3,
        "unreadable": 1,
        "accuracy": 0.6667,
        "score": 4.5,
    }


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "file:///etc/passwd", "http://", "http://me:pw@host/v1", "http://host:x/v1"],
)
def test_addresses_that_are_not_taken(url):
    with pytest.raises(OptionError, match="--judge wants"):
        JudgeOptions(url, "m")
    with pytest.raises(OptionError, match="--judge-model"):
        JudgeOptions("http://localhost/v1", "")


def test_a_judge_that_thinks_first(endpoint, judge):
    endpoint.replies = [f"<think>{WRONG}? No.</think>\n{RIGHT}"]
    assert judge().verdicts([answered("a")]) == [Verdict(True, 5.0)]
    assert endpoint.requests[0]["max_tokens"] == 1024


def test_what_could_not_be_read_is_asked_again_by_the_next_run(endpoint, judge):
    endpoint.replies = ["Well,", RIGHT]
    rows = [answered("a"), answered("b")]
    first = judge()
    assert first.verdicts(rows) == [None, Verdict(True, 5.0)]
    assert first.verdicts(rows) == [None, Verdict(True, 5.0)]
    assert len(endpoint.requests) == 2
    endpoint.replies = [WRONG]
    assert judge().verdicts(rows) == [Verdict(False, 1.0), Verdict(True, 5.0)]
    assert judge().verdicts(rows) == [Verdict(False, 1.0), Verdict(True, 5.0)]
    assert len(endpoint.requests) == 3


def test_metrics_of_nothing_are_none():
    nothing = {"n": 0, "unreadable": 2, "accuracy": None, "score": None}
    assert judge_metrics([None, None]) == nothing
    assert judge_metrics([Verdict(True, None)])["score"] is None
