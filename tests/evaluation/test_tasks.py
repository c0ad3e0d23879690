"""Each benchmark on a few rows in its published format."""

import json

import pytest
from PIL import Image

from video_llama.data.world.write import write_world
from video_llama.errors import DataError, OptionError
from video_llama.evaluation.runner import load_questions
from video_llama.evaluation.task import Answered
from video_llama.evaluation.tasks import TASKS, avsd, get_task, pope, world


@pytest.fixture
def load(tmp_path):
    """The questions of a benchmark from the test's folder, and whether their media are there."""

    def load(name):
        found = TASKS[name].load(tmp_path)
        assert all(path.is_file() for path in found.files)
        return found

    return load


@pytest.fixture
def touch(tmp_path):
    def touch(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return touch


def measured(name, questions, *predictions):
    rows = [Answered(one, said) for one, said in zip(questions, predictions, strict=True)]
    return TASKS[name].measure(rows)


def test_names():
    assert get_task("pope").name == "pope"
    with pytest.raises(OptionError, match="no benchmark 'poppe'; there are msvd-qa, "):
        get_task("poppe")
    assert all(name == task.name for name, task in TASKS.items())


def test_msvd_qa(load, touch, write_json, tmp_path):
    rows = [
        {"answer": "gun", "id": 7, "question": "what is a man firing?", "video_id": 1301},
        {"answer": "two", "id": 8, "question": "how many men talk?", "video_id": 1302},
        {"answer": "cat", "id": 9, "question": "does it purr?", "video_id": 1303},
    ]
    write_json("test_qa.json", rows)
    mapping = tmp_path / "youtube_mapping.txt"
    mapping.write_text("aA-_1_0_9 vid1301\nbb_2_5 vid1302\n", encoding="utf-8")
    touch("YouTubeClips/aA-_1_0_9.avi", "videos/vid1302.mp4")
    found = load("msvd-qa")
    first, second, third = found.questions
    assert (first.id, first.text, first.kind) == ("7", "What is a man firing?", "what")
    assert (second.kind, third.kind) == ("how", "other")
    assert first.medium.path == tmp_path / "YouTubeClips/aA-_1_0_9.avi"
    assert second.medium.path == tmp_path / "videos/vid1302.mp4"
    assert not third.medium.path.exists()
    assert [path.name for path in found.files] == ["test_qa.json", "youtube_mapping.txt"]
    metrics = measured("msvd-qa", found.questions, "a gun", "I see 2 men", "dog").metrics
    assert (metrics["exact"], metrics["contains"]) == (0.3333, 0.6667)
    mapping.write_text("one two three\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1 of youtube_mapping"):
        load("msvd-qa")


def test_ids_of_another_kind_are_told_with_their_row(load, touch, write_json):
    touch("COCO_1.jpg")
    for number in ([1], {"a": 1}, True, None):
        write_json(
            "captions_val2014.json",
            {
                "images": [{"id": 1, "file_name": "COCO_1.jpg"}],
                "annotations": [{"image_id": number, "caption": "a dog"}],
            },
        )
        with pytest.raises(DataError, match="#0: 'image_id' is a text or a whole number"):
            load("coco-captions")


def test_msrvtt_qa(load, touch, write_json, tmp_path):
    row = {"answer": "couch", "category_id": 14, "id": 1, "question": "where is he?"}
    write_json("test_qa.json", [{**row, "video_id": 7010}])
    touch("TestVideo/video7010.mp4")
    (question,) = load("msrvtt-qa").questions
    assert question.medium.path == tmp_path / "TestVideo/video7010.mp4"
    assert (question.kind, question.references) == ("where", ("couch",))
    write_json("test_qa.json", [row])
    with pytest.raises(DataError, match=r"test_qa\.json#0: there is no 'video_id'"):
        load("msrvtt-qa")


def test_activitynet_qa(load, touch, write_json, tmp_path):
    asked = [
        {"question": "is the man old", "question_id": "v_a_1", "video_name": "a"},
        {"question": "what is red", "question_id": "v_b_1", "video_name": "b"},
    ]
    write_json("test_q.json", asked)
    answers = [
        {"answer": "ball", "question_id": "v_b_1", "type": 5},
        {"answer": "yes", "question_id": "v_a_1", "type": 3},
    ]
    write_json("test_a.json", answers)
    touch("videos/v_a.mkv", "videos/b.mp4")
    found = load("activitynet-qa")
    first, second = found.questions
    assert (first.kind, first.references) == ("yes or no", ("yes",))
    assert second.kind == "object"
    assert first.medium.path == tmp_path / "videos/v_a.mkv"
    assert second.medium.path == tmp_path / "videos/b.mp4"
    metrics = measured("activitynet-qa", found.questions, "No, he is young.", "A ball.").metrics
    assert metrics["by_kind"]["yes or no"]["contains"] == 0.0
    assert metrics["by_kind"]["object"]["exact"] == 1.0
    write_json("test_a.json", answers[:1])
    with pytest.raises(DataError, match=r"test_q\.json#0: test_a\.json has no answer"):
        load("activitynet-qa")
    write_json("test_a.json", [{**answers[0], "type": 12}, answers[1]])
    with pytest.raises(DataError, match="from 0 to 8"):
        load("activitynet-qa")


DIALOGUE = [
    {"question": "is it a man ?", "answer": "yes , he is"},
    {"question": "what does he do ?", "answer": "he cooks"},
]


def test_avsd(load, touch, write_json):
    name = "test_set4DSTC7-AVSD.json"
    dialogue = {"image_id": "7UPGT", "caption": "...", "summary": "...", "dialog": DIALOGUE}
    write_json(name, {"type": "test", "dialogs": [dialogue]})
    touch("7UPGT.mp4")
    (question,) = load("avsd").questions
    assert (question.id, question.text) == ("7UPGT_1", "what does he do ?")
    assert question.before == (("is it a man ?", "yes , he is"),)
    assert question.references == ("he cooks",)

    hidden = [DIALOGUE[0], {**DIALOGUE[1], "answer": "__UNDISCLOSED__"}]
    write_json(name, {"dialogs": [{**dialogue, "dialog": hidden}]})
    with pytest.raises(DataError, match=f"#0: the last answer is hidden; put lbl_{name}"):
        load("avsd")
    write_json(f"lbl_{name}", {"dialogs": [dialogue]})
    assert load("avsd").questions == (question,)

    several = {
        "images": [{"id": 0, "name": "7UPGT_1"}],
        "annotations": [
            {"image_id": 0, "id": 0, "caption": "he cooks"},
            {"image_id": 0, "id": 1, "caption": "cooking"},
        ],
    }
    write_json("test_set4DSTC7-AVSD_multiref.json", several)
    found = load("avsd")
    assert found.questions[0].references == ("he cooks", "cooking")
    assert len(found.files) == 2


def test_files_beside_the_annotations_are_found_where_these_are(load, touch, write_json, tmp_path):
    name = "annotations/test_set4DSTC7-AVSD"
    write_json(f"{name}.json", {"dialogs": [{"image_id": "7UPGT", "dialog": DIALOGUE}]})
    several = [{"image_id": 0, "caption": text} for text in ("he cooks", "cooking")]
    images = [{"id": 0, "name": "7UPGT_1"}]
    write_json(f"{name}_multiref.json", {"images": images, "annotations": several})
    assert load("avsd").questions[0].references == ("he cooks", "cooking")
    row = {"answer": "gun", "id": 7, "question": "what is fired?", "video_id": 1301}
    write_json("annotations/test_qa.json", [row])
    (tmp_path / "annotations/youtube_mapping.txt").write_text("aA-_1_0_9 vid1301\n")
    touch("aA-_1_0_9.avi")
    assert load("msvd-qa").questions[0].medium.path == tmp_path / "aA-_1_0_9.avi"


def test_avsd_leaves_out_the_file_of_last_turns(load, write_json):
    dialogue = {"image_id": "7UPGT", "dialog": DIALOGUE}
    write_json("test_set4DSTC7-AVSD.json", {"dialogs": [dialogue]})
    last = {"dialogs": [{**dialogue, "dialog": DIALOGUE[1:]}]}
    write_json("lbl_undisclosedonly_test_set4DSTC7-AVSD.json", last)
    found = load("avsd")
    assert [path.name for path in found.files] == ["test_set4DSTC7-AVSD.json"]
    assert found.questions[0].id == "7UPGT_1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("no he doesn't speak", "no he does not speak"),
        ("No, he does n’t.", "No, he does not."),
        ("i can't and won't", "i can not and will not"),
        ("he's there, it's red", "he is there, it is red"),
        ("they're here, we'll go", "they are here, we will go"),
        ("I've seen, I'm sure", "I have seen, I am sure"),
        ("the dog's ball, he'd run", "the dog's ball, he'd run"),
    ],
)
def test_contractions_are_written_out(answer, words):
    assert avsd.write_out(answer) == words


def test_avsd_is_measured_without_contractions(load, write_json):
    answers = {"A": "no he doesn't speak", "B": "it is a red door"}
    dialogues = [
        {"image_id": name, "dialog": [{"question": "what ?", "answer": answer}]}
        for name, answer in answers.items()
    ]
    write_json("test_set.json", {"dialogs": dialogues})
    questions = load("avsd").questions
    metrics = measured("avsd", questions, "no he does not speak", "it's a red door").metrics
    assert metrics["cider"] == 10.0
    assert metrics["exact"] == 0.0


def test_avsd_is_measured_by_cider_too(load, write_json):
    dialogues = [
        {"image_id": name, "dialog": [{"question": "what ?", "answer": answer}]}
        for name, answer in (("A", "he cooks some soup now"), ("B", "she runs up the stairs"))
    ]
    write_json("test_set.json", {"dialogs": dialogues})
    questions = load("avsd").questions
    result = measured("avsd", questions, "he cooks some soup now", "she sleeps")
    assert 5 < result.metrics["cider"] < 6
    assert result.chance["cider"] == 0.0
    assert result.metrics["exact"] == 0.5


def test_music_avqa(load, touch, write_json, tmp_path):
    row = {
        "video_id": "00002674",
        "question_id": 29,
        "type": '["Audio-Visual", "Comparative"]',
        "question_content": "Is the <Object> louder than the <Object>?",
        "templ_values": '["cello", "flute"]',
        "question_deleted": 0,
        "anser": "yes",
    }
    rows = [row, {**row, "question_id": 30, "question_deleted": 1}]
    write_json("avqa-test.json", rows)
    touch("MUSIC-AVQA-videos-Real/00002674.mp4")
    found = load("music-avqa")
    (question,) = found.questions
    assert question.text == "Is the cello louder than the flute?"
    assert (question.kind, question.references) == ("Audio-Visual, Comparative", ("yes",))
    assert found.notes == ("1 questions that the data set has deleted are left out",)
    assert measured("music-avqa", [question], "Yes, by far.").metrics["contains"] == 1.0
    write_json("avqa-test.json", [{**row, "templ_values": '["cello"]'}])
    with pytest.raises(DataError, match="2 places and there are 1 values"):
        load("music-avqa")
    write_json("avqa-test.json", [{**row, "templ_values": "cello"}])
    with pytest.raises(DataError, match="'templ_values' is no list"):
        load("music-avqa")


def test_clotho_aqa(load, touch, tmp_path):
    lines = ["file_name,QuestionText,answer,confidence"]
    for question, answers in (
        ("Is it raining?", ("yes", "no", "Yes")),
        ("Is it loud?", ("no", "no", "no")),
        ('"What, then, falls?"', ("rain", "water", "rain")),
    ):
        lines += [f"Rain on roof.wav,{question},{answer},yes" for answer in answers]
    (tmp_path / "clotho_aqa_test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    touch("audio_files/Rain on roof.wav")
    found = load("clotho-aqa")
    first, second, third = found.questions
    assert first.medium.path == tmp_path / "audio_files/Rain on roof.wav"
    assert (first.kind, first.references) == ("yes or no, not unanimous", ("yes",))
    assert (second.kind, second.references) == ("yes or no, unanimous", ("no",))
    assert (third.kind, third.references) == ("word, not unanimous", ("rain", "water"))
    metrics = measured("clotho-aqa", found.questions, "Yes", "Yes, it is.", "Some water").metrics
    assert metrics["contains"] == 0.6667
    assert metrics["yes_no"]["accuracy"] == 0.5
    assert (metrics["yes_no"]["yes_share"], metrics["yes_no"]["yes_true"]) == (1.0, 0.5)


def test_mvbench(load, touch, write_json, tmp_path):
    row = {
        "video": "ZS9XR.mp4",
        "question": "What happened after?",
        "candidates": ["Ate the food.", "Took the bag.", "Sat down."],
        "answer": "Took the bag.",
        "start": 11.1,
        "end": 19.6,
    }
    write_json("json/action_sequence.json", [row, {**row, "video": "Q.mp4"}])
    write_json("json/action_antonym.json", [{**row, "video": "166583.webm"}])
    write_json("json/my_own.json", [{**row, "video": "166583.webm"}])
    touch(
        "video/star/Charades_v1_480/ZS9XR.mp4",
        "video/perception/videos/ZS9XR.mp4",
        "video/ssv2_video/166583.webm",
    )
    found = load("mvbench")
    antonym, first, absent, own = found.questions
    assert first.medium.path == tmp_path / "video/star/Charades_v1_480/ZS9XR.mp4"
    assert (first.medium.start, first.medium.end) == (11.1, 19.6)
    assert (antonym.medium.start, antonym.kind) == (None, "action antonym")
    assert own.medium.start == 11.1, "files of the same form may be about a stretch"
    assert not absent.medium.path.exists()
    assert first.text == (
        "What happened after?\nOptions:\n(A) Ate the food.\n(B) Took the bag.\n(C) Sat down.\n"
        "Answer with the letter of the best option only."
    )
    assert "not there: action_prediction" in found.notes[0]
    result = measured("mvbench", found.questions, "(B)", "B", "Took the bag", "(A)")
    assert result.metrics["accuracy"] == 0.75
    assert result.chance == {"accuracy": 0.3333}
    write_json("json/my_own.json", [{**row, "answer": "Ran."}])
    with pytest.raises(DataError, match=r"my_own\.json#0: the answer 'Ran\.' is none"):
        load("mvbench")
    write_json("json/action_sequence.json", [{**row, "start": float("nan")}])
    with pytest.raises(DataError, match="'start' must be a number of seconds"):
        load("mvbench")
    (tmp_path / "json/action_sequence.json").unlink()
    write_json("json/my_own.json", [{**row, "candidates": ["Took the bag."]}])
    with pytest.raises(DataError, match="2 to 26 options"):
        load("mvbench")


def test_mvbench_does_not_take_a_video_of_another_source(load, touch, write_json, tmp_path):
    """CLEVRER and the Perception Test both number their videos."""
    row = {"video": "video_10009.mp4", "question": "?", "candidates": ["a", "b"], "answer": "a"}
    write_json("json/moving_count.json", [row])
    write_json("json/my_own.json", [row])
    touch("video/perception/videos/video_10009.mp4")
    clevrer, own = load("mvbench").questions
    assert not clevrer.medium.path.exists()
    assert own.medium.path == tmp_path / "video/perception/videos/video_10009.mp4"
    touch("video/data0613/clevrer/video_validation/video_10009.mp4")
    clevrer, _ = load("mvbench").questions
    assert clevrer.medium.path.parts[-3] == "clevrer"


def test_mvbench_of_frames(load, write_json, tmp_path):
    folder = tmp_path / "video/tvqa/frames_fps3_hq/castle_s01"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "00001.jpg")
    row = {"video": "castle_s01", "question": "Who?", "candidates": ["a", "b"], "answer": "a"}
    write_json("json/episodic_reasoning.json", [{**row, "start": 0, "end": 20}])
    (question,) = load("mvbench").questions
    assert question.medium.path == folder
    assert (question.medium.fps, question.medium.end) == (3.0, 20.0)


def test_pope(load, touch, tmp_path):
    row = {"question_id": 1, "image": "COCO_val2014_01.jpg", "text": "Is there a dog?"}
    for name, label in (("random", "yes"), ("adversarial", "no")):
        line = json.dumps({**row, "label": label}) + "\n"
        (tmp_path / f"coco_pope_{name}.json").write_text(line, encoding="utf-8")
    touch("val2014/COCO_val2014_01.jpg")
    found = load("pope")
    assert [(one.kind, one.references) for one in found.questions] == [
        ("adversarial", ("no",)),
        ("random", ("yes",)),
    ]
    assert found.questions[0].medium.path == tmp_path / "val2014/COCO_val2014_01.jpg"
    metrics = measured("pope", found.questions, "Yes, there is.", "Yes.").metrics
    assert (metrics["accuracy"], metrics["yes_share"], metrics["yes_true"]) == (0.5, 1.0, 0.5)
    assert metrics["by_kind"]["adversarial"]["accuracy"] == 0.0
    bad = json.dumps({**row, "label": "maybe"})
    (tmp_path / "coco_pope_random.json").write_text(bad, encoding="utf-8")
    with pytest.raises(DataError, match="must be yes or no, not 'maybe'"):
        load("pope")


def test_pope_of_several_data_sets_keeps_them_apart(load, tmp_path):
    row = {"question_id": 1, "image": "x.jpg", "text": "Is there a dog?", "label": "no"}
    for name in ("coco_pope_random", "gqa_pope_random", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")
    assert [one.kind for one in load("pope").questions] == ["coco random", "gqa random"]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("A dog is there", "yes"),
        ("There is not, I think", "no"),
        ("No, there is none.", "no"),
        ("Yes. There is no cat.", "yes"),
        ("NO", "yes"),
        ("There isn't a dog", "yes"),
        ("No\n\nIt is a cat", "yes"),
        ("", "yes"),
    ],
)
def test_popes_published_reading(answer, read):
    assert pope.published_reading(answer) == read


def test_pope_is_measured_as_published_too(load, tmp_path):
    row = {"question_id": 1, "image": "x.jpg", "text": "Is there a dog?"}
    for name, label in (("random", "yes"), ("adversarial", "no")):
        line = json.dumps({**row, "label": label}) + "\n"
        (tmp_path / f"coco_pope_{name}.json").write_text(line, encoding="utf-8")
    questions = load("pope").questions
    metrics = measured("pope", questions, "There is none of that", "I can see a dog").metrics
    assert (metrics["accuracy"], metrics["f1"], metrics["yes_share"]) == (0.5, 0.0, 0.0)
    assert (metrics["published_accuracy"], metrics["published_f1"]) == (0.5, 0.6667)
    assert metrics["published_yes"] == 1.0
    assert metrics["by_kind"]["random"]["published_accuracy"] == 1.0


def test_avhbench(load, touch, write_json):
    row = {"video_id": "00001", "text": "Is the dog making sound?", "label": "No"}
    heard = {**row, "task": "Video-driven Audio Hallucination"}
    matching = {**row, "task": "AV Matching", "label": "Yes"}
    caption = {**row, "task": "AV Captioning", "label": "A dog sleeps."}
    write_json("QA.json", [heard, matching, caption])
    touch("videos/00001.mp4")
    found = load("avhbench")
    assert [one.kind for one in found.questions] == [
        "Video-driven Audio Hallucination",
        "AV Matching",
    ]
    assert found.notes == ("1 rows of AV Captioning are left out",)
    metrics = measured("avhbench", found.questions, "Yes", "Yes").metrics
    assert metrics["by_kind"]["Video-driven Audio Hallucination"]["yes_true"] == 0.0


def test_coco_captions(load, touch, write_json, tmp_path):
    held = {
        "images": [{"id": 42, "file_name": "COCO_42.jpg"}, {"id": 43, "file_name": "COCO_43.jpg"}],
        "annotations": [
            {"image_id": 42, "id": 1, "caption": "A dog runs."},
            {"image_id": 42, "id": 2, "caption": "A running dog."},
        ],
    }
    write_json("annotations/captions_val2014.json", held)
    touch("val2014/COCO_42.jpg")
    (question,) = load("coco-captions").questions
    assert question.references == ("A dog runs.", "A running dog.")
    assert question.medium.path == tmp_path / "val2014/COCO_42.jpg"
    held["annotations"].append({"image_id": 99, "caption": "Lost."})
    write_json("annotations/captions_val2014.json", held)
    with pytest.raises(DataError, match="an image 99"):
        load("coco-captions")


def test_msrvtt_captions(load, touch, write_json):
    held = {
        "videos": [
            {"video_id": "video1", "split": "test"},
            {"video_id": "video2", "split": "train"},
        ],
        "sentences": [
            {"video_id": "video1", "sen_id": 0, "caption": "a man talks"},
            {"video_id": "video2", "sen_id": 1, "caption": "a cat sits"},
            {"video_id": "video1", "sen_id": 2, "caption": "someone speaks"},
        ],
    }
    write_json("test_videodatainfo.json", held)
    touch("video1.mp4")
    (question,) = load("msrvtt-captions").questions
    assert (question.id, question.references) == ("video1", ("a man talks", "someone speaks"))


def test_clotho_captions(load, touch, tmp_path):
    header = "file_name," + ",".join(f"caption_{number}" for number in range(1, 6))
    text = f'{header}\nRain.wav,a,b,c,d,"e, f"\n'
    (tmp_path / "clotho_captions_evaluation.csv").write_text(text, encoding="utf-8")
    touch("evaluation/Rain.wav")
    (question,) = load("clotho-captions").questions
    assert question.references == ("a", "b", "c", "d", "e, f")
    assert question.medium.path == tmp_path / "evaluation/Rain.wav"


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 8, 1_000_000, seconds=1.0)
    return folder


def test_the_worlds_sample_does_not_depend_on_what_was_written_before(tmp_path):
    asked = {}
    for folder, limit in (("few", 3), ("more", 6), ("few", 6)):
        loaded = load_questions(world.TASK, None, tmp_path / folder, limit)
        asked[folder, limit] = [one.id for one in loaded.found.questions]
        assert all(one.medium.path.is_file() for one in loaded.found.questions)
    assert asked["few", 6] == asked["more", 6]
    assert set(asked["few", 3]) < set(asked["more", 6])
    scenes = {int(name.split("/")[0]) - world.HELD_OUT_SEED for name in asked["more", 6]}
    assert max(scenes) > 20  # of all, not of the first


def test_world(small_world):
    found = world.load(small_world)
    assert found.notes == ()
    assert {one.medium.path.suffix for one in found.questions} == {".mp4", ".png", ".wav"}
    assert all(one.medium.path.is_file() for one in found.questions)
    true = measured("world", found.questions, *(one.references[0] for one in found.questions))
    assert true.metrics["accuracy"] == 1.0
    assert all(true.right)
    assert true.metrics["yes_share"] == true.metrics["yes_true"]
    assert 0.1 < true.chance["accuracy"] < 0.9
    wrong = measured("world", found.questions, *("" for _ in found.questions)).metrics
    assert wrong["accuracy"] == 0.0
    assert wrong["yes_share"] == 0.0
    kinds = wrong["by_kind"]
    assert sum(row["n"] for row in kinds.values()) == len(found.questions)
    assert {"presence (no)", "missing stream", "describe of video"} <= set(kinds)
    # Yes and no are dealt out together; either alone could not be wrong.
    assert kinds["presence (no)"]["chance"] < 0.9


def test_a_world_that_training_may_have_seen_is_noted(tmp_path):
    write_world(tmp_path, 3, 5, seconds=1.0)
    assert world.load(tmp_path).notes == ("3 scenes have numbers that training may have used",)


def test_a_world_of_another_version_is_refused(tmp_path, small_world):
    for name in ("world.json", "world.jsonl"):
        text = (small_world / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert world.load(tmp_path).questions
    lines = (tmp_path / "world.jsonl").read_text(encoding="utf-8").split("\n")
    row = json.loads(lines[2])
    row["questions"]["zh"][0]["answer"] += "!"
    lines[2] = json.dumps(row)
    (tmp_path / "world.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"world\.jsonl#2: .*another version"):
        world.load(tmp_path)
