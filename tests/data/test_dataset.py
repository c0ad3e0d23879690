"""From draws to batches: what is read, what is said, and that nothing but the draw decides."""

import base64
import itertools
import pickle
import subprocess
import sys
import tarfile

import pytest
import torch
from torch.utils.data import DataLoader

from video_llama.data.collator import Batch, Collator
from video_llama.data.dataset import Prepared, Rejected, TrainingDataset
from video_llama.data.formats import DatasetSpec, open_dataset
from video_llama.data.medium import Medium, read_medium
from video_llama.data.mixture import Draw, Mixture, ShardedBatches
from video_llama.errors import MediaError, OptionError
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.tokens import IGNORE_INDEX


def lines(path, format="jsonl", **fields):
    return open_dataset(DatasetSpec(str(path), format, **fields))


def answer(prompt, processor):
    """What is learnt, as text."""
    learnt = [label for label in prompt.labels if label != IGNORE_INDEX]
    return processor.tokenizer.decode(learnt)


def get(dataset, row=0, position=0):
    return dataset[Draw(position, 0, row, 0)]


# One sample


def test_a_picture_and_a_video_are_seen(mixed_lines, processor):
    dataset = TrainingDataset([lines(mixed_lines)], processor, "vision")
    picture, video = get(dataset, 0), get(dataset, 1)
    assert [one.frames[0].shape for one in (picture, video)] == [(1, 3, 28, 28), (4, 3, 28, 28)]
    assert picture.clips == ()
    assert [one.prompt.media[0].kind for one in (picture, video)] == ["image", "video"]
    assert answer(picture.prompt, processor) == " It is number 0.</s>"
    assert picture.key == "mixed.jsonl#0"
    # The same as the processor makes of the conversation.
    rows = lines(mixed_lines)
    messages = rows[1].messages
    messages[0]["content"][0]["sound"] = False
    whole = processor.apply_chat_template(messages, return_labels=True)
    assert torch.equal(whole["pixel_values_videos"][0], video.frames[0])
    assert whole["input_ids"][0].tolist() == video.prompt.input_ids
    assert whole["labels"][0].tolist() == video.prompt.labels


def test_the_audio_branch_is_given_pictures(mixed_lines, processor):
    dataset = TrainingDataset([lines(mixed_lines)], processor, "audio", num_frames=2)
    for row, length in ((0, 1), (1, 2)):
        sample = get(dataset, row)
        assert sample.frames == ()
        assert sample.clips[0].shape == (length, 3, 28, 28)
        assert sample.clip_modality == "vision"
        assert sample.prompt.input_ids.count(processor.audio_token_id) == 3
    refused = get(dataset, 2)
    assert isinstance(refused, Rejected)
    assert "it has a part of type 'audio', and this run learns from pictures" in refused.reason


def test_the_audio_branch_is_given_sounds(mixed_lines, processor):
    dataset = TrainingDataset([lines(mixed_lines)], processor, "audio", modality="audio")
    for row in (1, 2):
        sample = get(dataset, row)
        assert sample.clips[0].shape == (2, 1, 128, 204)
        assert sample.clip_modality == "audio"
    assert "it has a part of type 'image', and this run learns from sounds" in get(dataset).reason


def test_captions_of_stage_1(tmp_path, processor, save_picture, save_lines):
    save_picture(tmp_path / "a.png")
    captions = ["A DOG (brown), on the lawn!", "word " * 60, "###"]
    rows = [{"image": "a.png", "caption": caption} for caption in captions]
    dataset = TrainingDataset([lines(save_lines(tmp_path / "c.jsonl", rows))], processor, "vision")
    sample = get(dataset)
    assert answer(sample.prompt, processor) == "a dog brown , on the lawn\n"
    assert sample.prompt.input_ids[:5] == [1, *[processor.image_token_id] * 4]
    long = get(dataset, 1).prompt
    assert len(long.input_ids) == 1 + 4 + 32
    assert "nothing is left of the caption" in get(dataset, 2).reason
    heard = TrainingDataset(dataset.rows, processor, "audio")
    assert len(get(heard, 1).prompt.input_ids) == 1 + 3 + 32
    short = TrainingDataset(dataset.rows, processor, "vision", max_length=9)
    assert len(get(short, 1).prompt.input_ids) == 9


def test_descriptions_of_stage_2(tmp_path, make_processor, processor, save_picture, save_json):
    save_picture(tmp_path / "1.jpg")
    rows = {"annotations": [{"image_id": 1, "caption": "A Dog."}]}
    found = [lines(save_json(tmp_path / "filter_cap.json", rows), "descriptions")]
    vicuna = make_processor("vicuna")
    sample = get(TrainingDataset(found, vicuna, "vision"))
    text = vicuna.tokenizer.decode([i for i in sample.prompt.input_ids if i < 259])
    assert text == (
        "<s>###Human: <Image></Image> Describe this image in detail. ###Assistant: A Dog.###"
    )
    assert answer(sample.prompt, vicuna) == "A Dog.###"
    plain = get(TrainingDataset(found, processor, "vision"))
    assert answer(plain.prompt, processor) == " A Dog.</s>"


def test_one_of_several_captions_is_drawn(tmp_path, processor, save_picture, save_lines):
    save_picture(tmp_path / "a.png")
    row = {"image": "a.png", "captions": ["one", "two", "three"]}
    found = [lines(save_lines(tmp_path / "c.jsonl", [row]))]
    dataset = TrainingDataset(found, processor, "vision", seed=4)
    drawn = [answer(get(dataset, 0, n).prompt, processor) for n in range(30)]
    assert set(drawn) == {"one\n", "two\n", "three\n"}
    again = TrainingDataset(found, processor, "vision", seed=4)
    assert [answer(get(again, 0, n).prompt, processor) for n in range(29, -1, -1)] == drawn[::-1]
    other = TrainingDataset(found, processor, "vision", seed=5)
    assert [answer(get(other, 0, n).prompt, processor) for n in range(30)] != drawn


def test_frames_are_drawn_by_position_alone(mixed_lines, processor):
    def frames(seed, positions, **options):
        dataset = TrainingDataset([lines(mixed_lines)], processor, "vision", seed=seed, **options)
        return {p: get(dataset, 1, p).frames[0] for p in positions}

    def same(one, other):
        return all(torch.equal(one[p], other[p]) for p in one)

    drawn = frames(1, range(6), sampling="head_tail")
    assert same(drawn, frames(1, range(5, -1, -1), sampling="head_tail"))
    assert not same(drawn, frames(2, range(6), sampling="head_tail"))
    assert any(not torch.equal(drawn[0], drawn[p]) for p in range(1, 6))
    uniform = frames(1, range(2))
    assert torch.equal(uniform[0], uniform[1])
    cropped = frames(1, range(2), crop=True)
    assert not torch.equal(cropped[0], cropped[1])
    assert same(cropped, frames(1, range(2), crop=True))


def test_conversations_with_several_media(tmp_path, processor, save_picture, save_lines, clip_path):
    save_picture(tmp_path / "a.png")
    film = f"data:video/x-matroska;base64,{base64.b64encode(clip_path.read_bytes()).decode()}"
    turns = [
        {"role": "user", "content": [{"type": "video", "video": film}, "Which?"]},
        {"role": "assistant", "content": "First."},
        {"role": "user", "content": [{"type": "image", "image": "a.png"}, "And now?"]},
        {"role": "assistant", "content": "Second."},
    ]
    found = lines(save_lines(tmp_path / "c.jsonl", [{"messages": turns}]))
    sample = get(TrainingDataset([found], processor, "vision"))
    assert [len(frames) for frames in sample.frames] == [4, 1]
    assert answer(sample.prompt, processor) == " First.</s> Second.</s>"


# Samples that cannot be used


def test_bad_samples_are_named(tmp_path, processor, save_picture, save_sound, save_lines):
    (tmp_path / "text.png").write_text("no picture")
    save_sound(tmp_path / "sound.mp4.wav").rename(tmp_path / "sound.mp4")
    save_picture(tmp_path / "a.png")
    bad = [
        ({"image": "nowhere.png", "caption": "x"}, "no such file"),
        ({"image": "text.png", "caption": "x"}, "text.png"),
        ({"video": "sound.mp4", "caption": "x"}, "sound.mp4 has no picture to learn from"),
        ({"image": "a.png", "caption": ""}, "a caption is empty"),
        ({"messages": [{"role": "user", "content": "a"}]}, "must be an answer"),
        (
            {
                "messages": [
                    {"role": "user", "content": "Hello"},
                    {"role": "assistant", "content": "Hi"},
                ]
            },
            "there is no medium in it",
        ),
    ]
    found = lines(save_lines(tmp_path / "bad.jsonl", [row for row, _ in bad]))
    dataset = TrainingDataset([found], processor, "vision")
    for number, (_, words) in enumerate(bad):
        refused = get(dataset, number, 7)
        assert isinstance(refused, Rejected), words
        assert (refused.key, refused.position) == (f"bad.jsonl#{number}", 7)
        assert words in refused.reason
        assert "bad.jsonl" not in refused.reason
        assert "\n" not in refused.reason


def test_samples_that_do_not_fit(mixed_lines, processor):
    found = [lines(mixed_lines)]
    short = TrainingDataset(found, processor, "vision", max_length=3)
    assert "samples are cut at 3" in get(short).reason
    # "<s>", four placeholders and the question leave no room for the answer.
    cut = TrainingDataset(found, processor, "vision", max_length=20)
    assert "no word of the answers lies within 20 tokens" in get(cut).reason


def test_what_lacks_a_name_is_told_by_its_key(tmp_path, processor):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("seven.jpg", "seven.txt"):
            (tmp_path / name).write_text("no picture")
            tar.add(tmp_path / name, name)
    dataset = TrainingDataset([lines(tmp_path / "x.tar", "shards")], processor, "vision")
    assert get(dataset).reason.startswith(f"{tmp_path / 'x.tar'}/seven: ")


def test_settings_that_do_not_go_together(processor, tiny_silent_model_dir):
    deaf = type(processor).from_pretrained(tiny_silent_model_dir)
    with pytest.raises(OptionError, match="no audio branch"):
        TrainingDataset([], deaf, "audio")
    with pytest.raises(OptionError, match="not in a cache"):
        TrainingDataset([], processor, "vision", crop=True, encoded=Encoded(processor))


# Encoder states in place of pixels


class Encoded:
    """Remembers what it was asked; frame states are the mean colours, four times."""

    def __init__(self, processor):
        self.processor = processor
        self.requests = []

    def look_up(self, request):
        self.requests.append(request)
        medium = read_medium(request, self.processor)
        if medium.values.shape[-1] == 28 and medium.kind == "image":
            raise MediaError("it could not be read when the cache was made")
        states = medium.values.mean(dim=(-1, -2))[:, None].expand(-1, 4, -1)
        return Medium(medium.kind, states, medium.times)


def test_encoder_states_take_the_place_of_pixels(mixed_lines, processor):
    encoded = Encoded(processor)
    found = [lines(mixed_lines)]
    options = {"sampling": "head_tail", "seed": 3}
    dataset = TrainingDataset(found, processor, "vision", encoded=encoded, **options)
    pixels = get(TrainingDataset(found, processor, "vision", **options), 1, 5)
    states = get(dataset, 1, 5)
    assert states.encoded
    assert not pixels.encoded
    assert states.prompt == pixels.prompt
    assert torch.equal(states.frames[0][:, 0], pixels.frames[0].mean(dim=(-1, -2)))
    assert encoded.requests == dataset.requests(found[0][1], 5)
    assert get(dataset, 0).reason == "it could not be read when the cache was made"
    batch = Collator(processor)([states, get(dataset, 4), get(dataset, 0)])
    assert batch.encoded
    assert batch.frames.shape == (2, 4, 4, 3)
    assert [one.key for one in batch.rejected] == ["mixed.jsonl#0"]


# Batches


def test_a_batch(mixed_lines, processor):
    dataset = TrainingDataset([lines(mixed_lines)], processor, "vision")
    samples = [get(dataset, row, position) for position, row in enumerate((0, 1, 2, 4))]
    batch = Collator(processor)(samples)
    assert batch.keys == ["mixed.jsonl#0", "mixed.jsonl#1", "mixed.jsonl#4"]
    assert batch.positions == [0, 1, 3]
    assert [one.position for one in batch.rejected] == [2]
    assert batch.frames.shape == (3, 4, 3, 28, 28)
    assert batch.frame_mask.tolist() == [[True, False, False, False], [True] * 4, [True] * 4]
    assert (batch.frames[0, 1:] == 0).all()
    assert (batch.clips, batch.clip_mask) == (None, None)
    for number, sample in enumerate((samples[0], samples[1], samples[3])):
        length = len(sample.prompt.input_ids)
        assert batch.input_ids[number, :length].tolist() == sample.prompt.input_ids
        assert batch.labels[number, :length].tolist() == sample.prompt.labels
        assert batch.attention_mask[number].tolist() == [1] * length + [0] * (
            batch.input_ids.shape[1] - length
        )
        assert (batch.labels[number, length:] == IGNORE_INDEX).all()
    assert Collator(processor)([samples[0]]).frame_mask is None


def test_a_batch_of_sounds(mixed_lines, processor):
    dataset = TrainingDataset([lines(mixed_lines)], processor, "audio", modality="audio")
    batch = Collator(processor)([get(dataset, 1), get(dataset, 2)])
    assert batch.clips.shape == (2, 2, 1, 128, 204)
    assert (batch.frames, batch.clip_modality) == (None, "audio")


def test_a_batch_of_nothing(mixed_lines, processor):
    dataset = TrainingDataset([lines(mixed_lines)], processor, "vision")
    batch = Collator(processor)([get(dataset, 2), get(dataset, 5)])
    assert batch.input_ids is None
    assert len(batch.rejected) == 2
    assert batch.to("cpu").rejected == batch.rejected


def test_a_batch_moves(mixed_lines, processor):
    dataset = TrainingDataset([lines(mixed_lines)], processor, "vision")
    batch = Collator(processor)([get(dataset, 0), get(dataset, 1)])
    moved = batch.to("meta")
    assert {
        moved.input_ids.device.type,
        moved.frames.device.type,
        moved.frame_mask.device.type,
    } == {"meta"}
    assert moved.keys == batch.keys
    assert batch.frames.device.type == "cpu"


def test_the_model_takes_a_batch_as_it_takes_samples_alone(mixed_lines, processor, tiny_model_dir):
    model = VideoLlamaForConditionalGeneration.from_pretrained(tiny_model_dir).eval()
    dataset = TrainingDataset([lines(mixed_lines)], processor, "vision")
    samples = [get(dataset, row) for row in (0, 1, 4)]
    collate = Collator(processor)

    @torch.no_grad()
    def loss(batch: Batch) -> float:
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            video_features=model.get_video_features(batch.frames, batch.frame_mask),
        ).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum"
        ).item()

    alone = sum(loss(collate([sample])) for sample in samples)
    assert loss(collate(samples)) == pytest.approx(alone, rel=1e-5)


def content(batch: Batch):
    tensors = (batch.input_ids, batch.labels, batch.frames, batch.frame_mask)
    return batch.keys, batch.rejected, tensors


def equal(one: Batch, other: Batch) -> bool:
    (keys, rejected, tensors), (keys_, rejected_, tensors_) = content(one), content(other)
    same = [
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(tensors, tensors_, strict=True)
    ]
    return keys == keys_ and rejected == rejected_ and all(same)


def test_two_workers_give_what_none_gives(mixed_lines, processor):
    rows = [lines(mixed_lines), lines(mixed_lines, name="again")]
    mixture = Mixture([len(one) for one in rows], [2, 1], 11)
    dataset = TrainingDataset(rows, processor, "vision", sampling="head_tail", seed=11)
    sent = pickle.loads(pickle.dumps(dataset))  # as to a worker that is not forked

    def batches(workers, first=0):
        return DataLoader(
            sent if workers else dataset,
            batch_sampler=ShardedBatches(mixture, 3, accumulation=2, start_step=first, steps=3),
            collate_fn=Collator(processor),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )

    alone = list(batches(0))
    together = list(batches(2))
    assert len(alone) == len(together) == 6
    assert all(itertools.starmap(equal, zip(alone, together, strict=True)))
    assert any(batch.rejected for batch in alone)
    resumed = list(batches(0, first=1))
    assert all(itertools.starmap(equal, zip(alone[2:], resumed, strict=True)))


def test_ranks_together_are_one(mixed_lines, processor):
    rows = [lines(mixed_lines)]
    dataset = TrainingDataset(rows, processor, "vision", sampling="head_tail", seed=2)
    mixture = Mixture([len(rows[0])], [1], 2)

    def samples(batch_size, rank, world_size):
        batches = ShardedBatches(mixture, batch_size, rank, world_size, 1, steps=2)
        return [dataset[draw] for batch in batches for draw in batch]

    whole = {one.position: one for one in samples(8, 0, 1)}
    parts = [one for rank in range(2) for one in samples(4, rank, 2)]
    assert sorted(one.position for one in parts) == list(range(16))
    for one in parts:
        twin = whole[one.position]
        assert one.key == twin.key
        if isinstance(one, Prepared):
            assert one.prompt == twin.prompt
            assert torch.equal(one.frames[0], twin.frames[0])


def test_cached_training_needs_no_decoder():
    code = "import sys, video_llama.data.collator as _; print('av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
