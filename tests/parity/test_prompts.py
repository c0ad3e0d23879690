"""Chat prompts, token ids, stop marks and clean-up against those of the original."""

import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from video_llama.errors import PromptTooLongError
from video_llama.media.sampling import timestamp_text, uniform_indices
from video_llama.processing.conversation import parse_conversation
from video_llama.processing.published_templates import SYSTEM_TEXT
from video_llama.processing.segments import Media, segments_to_text
from video_llama.processing.templates import get_template
from video_llama.processing.tokenizer import load_tokenizer
from video_llama.processing.tokens import Placeholder, check_fits, tokenize_segments

TEMPLATE_NAMES = {"vicuna": "vicuna", "llama_v2": "llama_2"}
MEDIUM = "<ImageHere>"
BREAK = 10**6  # an id that no text has


@pytest.fixture(scope="module")
def facts(kit):
    return kit.json("prompts")


@pytest.fixture(scope="module")
def tokenizer(kit):
    return load_tokenizer(kit.path("tokenizer"))


def user(*parts):
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": parts}


def uploaded(row):
    """The media part of a recorded chat."""
    if row["media"] == "image":
        return {"type": "image"}
    frames = int(re.search(r"contains (\d+) frames", row["msg"]).group(1))
    times = [index / row["fps"] for index in uniform_indices(row["vlen"], frames)]
    assert timestamp_text(times) == row["msg"]
    return {"type": "video", "times": times, "sound": row["media"] == "video_sound"}


def chats(facts):
    """Each recorded chat with its template and our form of the conversation after each turn."""
    for row in facts["chat"]:
        first, *later = row["turns"]
        conversation = [user(uploaded(row), first["question"])]
        steps = [list(conversation)]
        for before, turn in zip(row["turns"], later, strict=False):
            conversation.append({"role": "assistant", "content": before["answer_put_back"]})
            conversation.append(user(turn["question"]))
            steps.append(list(conversation))
        answer = {"role": "assistant", "content": row["turns"][-1]["answer_put_back"]}
        yield row, get_template(TEMPLATE_NAMES[row["style"]]), steps, [*conversation, answer]


def render(template, conversation, row, *, generate):
    return template.render(
        parse_conversation(conversation),
        add_generation_prompt=generate,
        has_audio_branch=row["demo"] == "audio-visual demo",
    )


def as_recorded(segments):
    return re.sub(r"<(image|video|audio)>", MEDIUM, segments_to_text(segments))


def test_prompts(facts):
    for row, template, steps, transcript in chats(facts):
        for turn, conversation in zip(row["turns"], steps, strict=True):
            segments = render(template, conversation, row, generate=True)
            assert as_recorded(segments) == turn["prompt"]
            assert as_recorded(segments).split(MEDIUM) == turn["segments"]
        whole = render(template, transcript, row, generate=False)
        assert as_recorded(whole) == row["transcript_after_2_turns"]


def test_token_ids(facts, tokenizer):
    placeholders = {kind: Placeholder(BREAK, 1) for kind in ("image", "video", "audio")}
    for row, template, steps, _ in chats(facts):
        for turn, conversation in zip(row["turns"], steps, strict=True):
            segments = render(template, conversation, row, generate=True)
            prompt = tokenize_segments(segments, tokenizer, placeholders)
            pieces = [[]]
            for token in prompt.input_ids:
                if token == BREAK:
                    pieces.append([])
                else:
                    pieces[-1].append(token)
            assert pieces == turn["segment_token_ids"]


def test_order_of_media(facts):
    for row, template, steps, _ in chats(facts):
        segments = render(template, steps[-1], row, generate=True)
        kinds = [segment.kind for segment in segments if isinstance(segment, Media)]
        order = ["audio" if kind == "audio" else "image/video" for kind in kinds]
        assert order == row["media_embeddings_order"]


def test_system_text(facts):
    assert facts["defaults"]["video_llama_system"] == SYSTEM_TEXT


def odd(facts, case):
    for row in facts["odd_cases"]:
        if row["case"].startswith(case):
            yield row, get_template(TEMPLATE_NAMES[row["style"]])


def odd_prompt(template, conversation):
    segments = template.render(parse_conversation(conversation), add_generation_prompt=True)
    return as_recorded(segments)


def questions_of(row):
    """The questions in a recorded text-only prompt."""
    if row["style"] == "vicuna":
        return re.findall(r"Human: (.*?)###", row["prompt"])
    return re.findall(r"(?:<</SYS>>\n\n|<s>\[INST\] )(.*?) \[/INST\]", row["prompt"])


def test_text_only(facts):
    for row, template in odd(facts, "text only"):
        assert odd_prompt(template, [user(*questions_of(row))]) == row["prompt"]


def test_empty_answer(facts):
    for row, template in odd(facts, "first answer was the empty string"):
        first, second = questions_of(row)
        conversation = [user(first), {"role": "assistant", "content": ""}, user(second)]
        assert odd_prompt(template, conversation) == row["prompt"]


def test_questions_in_a_row_join_the_upload(facts):
    for row, template in odd(facts, "two questions asked before an answer"):
        first, *rest = row["messages"][0][1].split("  ")[1].split(" ")
        conversation = [user({"type": "image"}, first), *(user(text) for text in rest)]
        assert odd_prompt(template, conversation) == row["prompt"]


def test_two_uploads(facts):
    """The original's llama_2 takes the second upload for the model's answer; ours does not."""
    times = (0.0,)
    for row, template in odd(facts, "two uploads"):
        (_, first), (_, second), _ = row["messages"]
        question = second.split("  ")[1]
        uploads = [
            user({"type": "image"}),
            user({"type": "video", "sound": False, "times": times}, question),
        ]
        expected = row["prompt"].replace("msg ", timestamp_text(times))
        if row["style"] == "llama_v2":
            broken = f"{first} [/INST] {second} </s>"
            assert row["prompt"].endswith(broken)
            mended = f"{first}{second} [/INST]".replace("msg ", timestamp_text(times))
            expected = row["prompt"].removesuffix(broken) + mended
        assert odd_prompt(template, uploads) == expected


def test_clean_up(facts, tokenizer):
    """Ids to answers. After a special token kept inside, the original's decoder may add a space."""
    for row in facts["postprocessing"]:
        template = get_template(TEMPLATE_NAMES[row["style"]])
        answer = template.decode_answer(row["generated_ids"], tokenizer)
        unify = re.compile(re.escape(tokenizer.unk_token) + r"\s*")
        assert unify.sub("", answer) == unify.sub("", row["result_text"])
        assert bool(unify.match(answer)) == bool(unify.match(row["result_text"]))
        if not unify.match(answer):
            assert template.clean_answer(row["raw_text"]) == row["result_text"]


def test_a_prompt_is_refused_where_the_original_cuts_it(facts):
    """The original drops the beginning of a long prompt, media and all; ours says by how much."""
    for example in facts["truncation_examples"]:
        sizes = example["prompt_len"], example["max_new_tokens"], example["max_length"]
        if example["begin_idx"] == 0:
            check_fits(*sizes)
            continue
        with pytest.raises(PromptTooLongError) as error:
            check_fits(*sizes)
        assert error.value.excess == example["begin_idx"]


def llama_like_vocabulary(stop_ids):
    """A tokenizer with LLaMA's ids for "###", the rest of its vocabulary made up."""
    (alone,), (two, one) = stop_ids
    size = max(alone, two, one) + 1
    words = {one: "#", two: "##", alone: "▁###", 0: "<unk>", 1: "▁", 2: "\n", 3: "▁##"}
    vocabulary = {words.get(index, f"<filler {index}>"): index for index in range(size)}
    merges = [("#", "#"), ("▁", "##"), ("▁##", "#")]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def test_stop_marks(facts, tokenizer):
    """The ids hard-coded in the original belong to LLaMA's vocabulary; ours are computed."""
    vicuna, llama_2 = facts["defaults"]["vicuna"], facts["defaults"]["llama_v2"]
    template = get_template("vicuna")
    assert template.stop_strings == (vicuna["sep"],)
    hard_coded = vicuna["stop_ids_hardcoded_real_llama_vocab"]
    assert template.stop_ids(llama_like_vocabulary(hard_coded)) == hard_coded
    for ids in template.stop_ids(tokenizer):
        assert tokenizer.decode(ids).strip() == vicuna["sep"]
    template = get_template("llama_2")
    assert template.stop_strings == (llama_2["sep2"],)
    assert template.stop_ids(tokenizer) == [[tokenizer.eos_token_id]]
    assert template.stop_ids(tokenizer) == llama_2["stop_ids_hardcoded_real_llama_vocab"]
