"""The recipe of the embedded model, in miniature: every step runs, and a finished one is kept."""

import io
import json
import os
import random
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch.nn import functional as F

from recipes.nano import (
    branches,
    joint_space,
    language,
    loop,
    material,
    naming,
    pictures,
    render,
    settings,
    text,
    train,
    vision,
)
from recipes.nano.build import new_processor
from recipes.nano.card import card
from recipes.nano.facts import NOTHING, audio_words, video_words
from recipes.nano.material import Material, unpack
from recipes.nano.pictures import PhotographBatches, as_sharp_as_any, both_names, mixed
from recipes.reproduce import parts
from video_llama import VideoLlama
from video_llama.data.labelled import SPLITS
from video_llama.data.world.scene import HELD_OUT_SEED, Group, Scene, sample_scene
from video_llama.data.world.things import AUDIBLE, NAMED, PHOTOGRAPHED
from video_llama.errors import DataError
from video_llama.evaluation.runner import ModelFacts, load_questions, run_task
from video_llama.evaluation.tasks.world import TASK
from video_llama.processing.tokens import IGNORE_INDEX


@pytest.mark.parametrize("folder", [None, Path("photographs")])
def test_words_of_a_scene_are_words_of_the_queries(folder: Path | None) -> None:
    chosen, rng = Material(Path("work"), folder), random.Random(0)
    vocabulary = chosen.vocabulary
    for _ in range(200):
        scene = sample_scene(rng, photographs=chosen.photographs, audible=chosen.audible)
        labels = vocabulary.video_labels(scene)
        said = [words[i] for words, i in zip(vocabulary.video, labels, strict=True)]
        assert tuple(said) == video_words(scene)
        if scene.sound:
            labels = vocabulary.audio_labels(scene.sound)
            said = [words[i] for words, i in zip(vocabulary.audio, labels, strict=True)]
            assert tuple(said) == audio_words(scene.sound)


def test_nothing_is_said_of_motion_in_a_picture() -> None:
    still = (Group("dog", "red"),)
    assert video_words(Scene(still, seconds=0.0))[3] == NOTHING
    assert video_words(Scene(still, seconds=2.0))[3] == "still"
    assert video_words(Scene((Group("horse", None),), seconds=0.0))[1] == NOTHING


def test_what_shines_through_has_its_share_of_the_name() -> None:
    x, things = torch.randn(64, 3, 4, 4), torch.arange(64)
    seen, others, shares = mixed(x, things, torch.Generator().manual_seed(0))
    assert shares.min() >= 0
    assert shares.max() <= 0.5
    assert 10 < (shares == 0).sum() < 54
    each = shares[:, None, None, None]
    torch.testing.assert_close(seen, (1 - each) * x + each * x[others])

    logits = torch.randn(64, 64)
    alone = F.cross_entropy(logits, things, label_smoothing=0.1)
    through = F.cross_entropy(logits, others, label_smoothing=0.1)
    for share, expected in ((0.0, alone), (0.25, 0.75 * alone + 0.25 * through)):
        loss = both_names(logits, things, others, torch.full((64,), share), 0.1)
        torch.testing.assert_close(loss, expected)


def test_lookups_need_the_thing_that_is_named() -> None:
    chosen, rng, kinds = Material(Path("work"), Path("photographs")), random.Random(0), set()
    for _ in range(300):
        talk = text.make_lookup(chosen, chosen.photographs, rng)
        assert len(talk.turns) == text.LOOKUP_TURNS
        for qa in talk.turns:
            kinds.add(qa.kind)
            if qa.kind in ("colour", "count", "motion"):
                first, second = (getattr(group, qa.kind) for group in talk.scene.groups)
                assert first != second
    assert kinds == set(text.LOOKUPS)


def test_which_of_two_colours_is_asked_about_often_enough() -> None:
    chosen = Material(Path("work"), Path("photographs"))
    known = [
        sum(group.colour is not None for group in talk.scene.groups)
        for talk in (text.make_talk(chosen, seed) for seed in range(1000))
        for qa in talk.turns
        if qa.kind == "colour" and len(talk.scene.groups) == 2
    ]
    assert known.count(2) > known.count(1) > 0  # one colour answers without a look at its thing


def test_what_is_listed_are_two_things() -> None:
    chosen, rng = Material(Path("work"), Path("photographs")), random.Random(0)
    made = [text.make_listed(chosen, chosen.photographs, rng) for _ in range(100)]
    assert {qa.kind for talk in made for qa in talk.turns} == set(text.LISTED)
    assert all(len(talk.scene.groups) == 2 and talk.turns for talk in made)


def test_words_for_one_thing_are_brought_together(tmp_path: Path, miniature: None) -> None:
    material_ = Material(settings.work_dir(tmp_path))
    forms = text.Forms(text.train_tokenizer(material_), material_.things)
    assert len(forms.ids) == len(material_.things)
    assert all(ids for thing in forms.ids for ids in thing)
    table = torch.nn.Parameter(torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.SGD([table], lr=20.0)
    first = forms.apart(table).item()
    for _ in range(20):
        optimizer.zero_grad()
        forms.apart(table).backward()
        optimizer.step()
    assert forms.apart(table).item() < first / 2


def test_recall_asks_for_what_its_tokens_say(tmp_path: Path, miniature: None) -> None:
    world = Material(settings.work_dir(tmp_path))
    processor = new_processor(world)
    recall = language.Recall(processor, world)
    things, values, ids, labels = recall.exercise()
    assert len(set(things)) == language.RECALLED
    learnt = [token for token in labels if token != IGNORE_INDEX]
    assert sorted(learnt) == sorted(token for value in values for token in recall.values[value])
    assert all(label in (IGNORE_INDEX, token) for label, token in zip(labels, ids, strict=True))
    table = torch.randn(len(processor.tokenizer), 8)
    embeddings, mask, targets = recall.batch(table, 3, torch.Generator().manual_seed(0))
    assert embeddings.shape[:2] == mask.shape == targets.shape
    assert (targets[mask == 0] == IGNORE_INDEX).all()
    assert mask[:, : language.RECALLED].all()


def test_comparing_asks_whether_a_thing_was_named(tmp_path: Path, miniature: None) -> None:
    world = Material(settings.work_dir(tmp_path))
    processor = new_processor(world)
    compare = language.Compare(processor, world)
    again = 0
    for _ in range(50):
        first, then, replies = compare.exercise()
        no, yes = next(pair for pair in compare.replies if replies[0] in pair)
        assert [yes if thing in first else no for thing in then] == replies
        again += replies.count(yes)
    assert 100 < again < 200  # of 300
    table = torch.randn(len(processor.tokenizer), 8)
    batch = compare.batch(table, 3, 0.5, torch.Generator().manual_seed(0))
    embeddings, mask, labels = batch
    assert embeddings.shape[:2] == mask.shape == labels.shape
    assert (labels[mask == 0] == IGNORE_INDEX).all()
    said = {token for pair in compare.replies for reply in pair for token in reply}
    assert set(labels[labels != IGNORE_INDEX].tolist()) <= said


def test_where_a_pasted_thing_is(tmp_path: Path, shards: Path) -> None:
    chosen = Material(settings.work_dir(tmp_path), shards)
    unpack(chosen)
    drawn = PhotographBatches(chosen, chosen.things, 0)
    x, facts, patches = drawn.pasted(64)
    assert x.shape == (64, 3, settings.IMAGE_SIZE, settings.IMAGE_SIZE)
    assert torch.isfinite(x).all()
    for row, tiles in zip(facts, patches, strict=True):
        assert set(tiles.tolist()) <= {-1, int(row[0])}
        rows, columns = torch.nonzero(tiles.view(render.GRID, -1) >= 0).float().mean(0)
        near = torch.stack([columns, rows]) + 0.5 - render.GRID * row[3:5]
        assert near.abs().max() < 0.75  # of a patch
        assert (row[6:] == -1).all()


def test_photographs_of_one_kind_come_as_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(6, 3, 48, 48, generator=generator)
    low = F.interpolate(fine, size=(24, 24), mode="bilinear", antialias=True)
    x = torch.cat([fine, F.interpolate(low, size=(48, 48), mode="bicubic")])
    sharp = torch.arange(12) < 6

    def detail(of: torch.Tensor) -> torch.Tensor:
        return of.diff(dim=-1).square().mean((1, 2, 3))

    monkeypatch.setattr(pictures, "COARSE", 1.0)
    monkeypatch.setattr(pictures, "CRISP", 1.0)
    y = as_sharp_as_any(x, sharp, generator)
    assert y.shape == x.shape
    assert (detail(y)[:6] < 0.5 * detail(x)[:6]).all()
    assert (detail(y)[6:] > 1.1 * detail(x)[6:]).all()
    monkeypatch.setattr(pictures, "COARSE", 0.0)
    monkeypatch.setattr(pictures, "CRISP", 0.0)
    assert torch.equal(as_sharp_as_any(x, sharp, generator), x)


def test_few_sharp_photographs_of_a_thing_are_drawn_often(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = SimpleNamespace(
        labels=np.array([0] * 16 + [1]),
        sharp=np.array([False] * 15 + [True] * 2),
        of_name={"dog": np.arange(16), "cat": np.array([16])},
    )
    monkeypatch.setattr(pictures, "photographs", lambda _: shown)
    weights = PhotographBatches(Material(Path("work")), ("dog", "cat"), 0).weights
    torch.testing.assert_close(weights, torch.tensor([15**-0.5] * 15 + [2.0] * 2).double())


def test_training_seeds_are_not_held_out() -> None:
    assert max(settings.SCENES.values()) < HELD_OUT_SEED
    assert language.TALKS < HELD_OUT_SEED


def test_what_an_unsure_token_means_is_the_likeliest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "normal", lambda shape, _: torch.zeros(shape))
    generator = torch.Generator().manual_seed(0)
    tables = [torch.eye(40)[:size] for size in (40, 7, 3)]
    labels = torch.stack([torch.arange(840) % len(table) for table in tables], dim=1)
    soft = language.unsure(tables, labels, 1.0, generator)
    assert (soft.argmax(-1) == labels).all()
    shares = soft / soft.sum(-1, keepdim=True)
    doubt = 1 - shares.gather(-1, labels[..., None])[..., 0]
    assert 0.2 < (doubt[:, 0] > 0.3).float().mean() < 0.8
    assert doubt.min() < 1e-6
    clear = language.unsure(tables, labels, 0.0, generator)
    assert (clear.count_nonzero(dim=-1) == 1).all()


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in settings.SCENES:
        monkeypatch.setitem(render.SCENES, kind, 160)
    monkeypatch.setitem(render.SCENES, "frames", 480)  # each thing is alone in some
    monkeypatch.setattr(language, "TALKS", 64 * 16)
    some = (language.Round(2, 1e-3, 0.0), language.Round(1, 1e-3, 1.0, language.unsure))
    monkeypatch.setattr(language, "ROUNDS", some)
    monkeypatch.setattr(language, "DRAWN_ROUNDS", some)
    monkeypatch.setattr(language, "RECALL_STEPS", (1, 2))
    monkeypatch.setattr(naming, "STEPS", 2)
    monkeypatch.setattr(naming, "DRAWN_STEPS", 2)
    monkeypatch.setattr(naming, "BATCH", 24)
    monkeypatch.setattr(naming, "DRAWN", 8)
    monkeypatch.setattr(naming, "DRAWN_BATCH", 24)
    rounds = (vision.Round(2, 1e-3, 16, 8, 4, 4), vision.Round(1, 5e-4, 16, 4, 4))
    monkeypatch.setattr(vision, "ROUNDS", rounds)
    monkeypatch.setattr(vision, "DRAWN_ROUNDS", (vision.Round(2, 1e-3, 16),))
    monkeypatch.setattr(joint_space, "BATCH", 16)
    monkeypatch.setattr(joint_space, "SOUND_BATCH", 16)
    for user in (joint_space, branches):
        monkeypatch.setattr(user, "SHOWN_PHOTOGRAPHS", 512)
    monkeypatch.setattr(joint_space, "PICTURE_STEPS", 2)
    monkeypatch.setattr(joint_space, "SOUND_STEPS", 2)
    monkeypatch.setattr(branches, "VISION_STEPS", (2, 1))
    monkeypatch.setattr(branches, "AUDIO_STEPS", (2, 1))
    monkeypatch.setattr(text, "TOKENIZER_TALKS", 300)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured squares and tones in the place of photographs and recordings, in every split."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    heard = {**{name: name for name in AUDIBLE}, "person": "speech"}
    for split in SPLITS:
        with tarfile.open(folder / f"images-squares-{split}-00.tar", "w") as tar:
            for number, name in enumerate([*NAMED, "no such thing"]):
                pixels = np.full((40, 48, 3), rng.integers(0, 255, 3), np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "JPEG")
                add_item(tar, number, name, "jpg", file.getvalue())
        with tarfile.open(folder / f"sounds-tones-{split}-00.tar", "w") as tar:
            for number, name in enumerate(AUDIBLE):
                tone = 0.3 * np.sin(np.arange(24_000) * (0.05 + 0.02 * number))
                file = io.BytesIO()
                soundfile.write(file, tone, 16_000, format="OGG", subtype="VORBIS")
                add_item(tar, number, heard[name], "ogg", file.getvalue())
    return folder


def add_item(tar: tarfile.TarFile, number: int, label: str, kind: str, data: bytes) -> None:
    about = json.dumps({"label": label, "seconds": 1.5}).encode()
    for suffix, content in ((kind, data), ("json", about)):
        member = tarfile.TarInfo(f"{number:04d}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


# Together they have each step run with no others done than those that it needs.
SEEING_FIRST = ("naming", "vision", "language", "vision_branch", "joint_space", "audio_branch")
HEARING_FIRST = ("naming", "joint_space", "language", "vision", "audio_branch", "vision_branch")


@pytest.mark.usefixtures("miniature")
@pytest.mark.parametrize(("photographed", "order"), [(False, SEEING_FIRST), (True, HEARING_FIRST)])
def test_every_step_runs_and_the_model_answers(
    tmp_path: Path,
    shards: Path,
    photographed: bool,
    order: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "model"
    work = settings.work_dir(tmp_path / "work")
    chosen = Material(work, shards if photographed else None)
    steps = {getattr(train, f"make_{name}"): () for name in order}
    assert steps.keys() == train.STEPS.keys()
    monkeypatch.setattr(train, "STEPS", steps)
    train.build(chosen, out)
    first = (out / "model.safetensors").read_bytes()
    capsys.readouterr()

    train.build(chosen, out)  # everything is there already
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "step" in line] == []
    assert (out / "model.safetensors").read_bytes() == first

    world = load_questions(TASK, None, tmp_path / "results", limit=40)
    assistant = VideoLlama.load(out, device="cpu")
    report = run_task(TASK, world, assistant, ModelFacts("nano", {}), tmp_path / "results").report
    assert report["answered"] == 40
    assert "audio_branch.imagebind" in card(out, report, control=report)

    if photographed:
        command = ["parts", "--work", str(work), "--photographs", str(shards), "--split", "val"]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(parts, "CONVERSATIONS", 100)
        capsys.readouterr()
        parts.main()
        found = json.loads(capsys.readouterr().out)
        assert found["picture, all things"]["n"] == len(PHOTOGRAPHED)
        assert found["sound by name"]["n"] == len(set(AUDIBLE) & set(PHOTOGRAPHED))
        assert found["sound by picture"]["n"] == found["sound by name"]["n"]
        assert found["language"]["all"]["n"] > 100  # answers


def note_threads(chosen: Material) -> None:
    """Ends when the other one has begun."""
    (chosen.work / f"{os.getpid()}.threads").write_text(str(torch.get_num_threads()))
    end = time.monotonic() + 60
    while len(list(chosen.work.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.05)


def note_more(chosen: Material) -> None:
    note_threads(chosen)


def note_that_two_ended(chosen: Material) -> None:
    if len(list(chosen.work.iterdir())) == 2:
        (chosen.work / "two.ended").touch()


def end_later(chosen: Material) -> None:
    """Ends when the failure of the other one has been told."""
    end = time.monotonic() + 60
    while not (chosen.work / "told").stat().st_size and time.monotonic() < end:
        time.sleep(0.05)


def break_off(chosen: Material) -> None:
    raise FloatingPointError(f"{chosen.work.name}: the gradient is not finite")


@pytest.mark.skipif(loop.DEVICE.type != "cpu", reason="an accelerator does one step after another")
def test_steps_beside_each_other_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {note_threads: (), note_more: (), note_that_two_ended: (note_threads, note_more)}
    train.run_steps(steps, Material(tmp_path), threads=6)
    assert (tmp_path / "two.ended").is_file()
    notes = list(tmp_path.glob("*.threads"))
    assert {path.read_text() for path in notes} == {"3"}
    assert len(notes) == 2
    assert f"{os.getpid()}.threads" not in {path.name for path in notes}
    told = tmp_path / "told"
    with told.open("w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        with pytest.raises(FloatingPointError, match="not finite"):
            train.run_steps({end_later: (), break_off: ()}, Material(tmp_path), threads=2)
    said = "gradient is not finite; end_later is finished first\n"
    assert told.read_text().endswith(said)  # not an hour later


def test_classes_without_a_word_are_left_out(tmp_path: Path, shards: Path) -> None:
    chosen = Material(tmp_path, shards)
    material.unpack(chosen)
    shown = material.photographs(chosen, "test")
    assert len(shown.pixels) == len(shown.labels)
    assert set(shown.of_name) <= set(NAMED)
    assert shown.sharp.all()
    sounds = material.recordings(chosen, "test")
    assert "person" in sounds.of_name
    assert len(sounds.draw("person", 2.0, random.Random(0))) == 32_000
    with pytest.raises(DataError, match="images"):
        material.unpack(Material(tmp_path / "other", tmp_path))


def test_only_the_named_modules_train(tmp_path: Path) -> None:
    from video_llama.models import VideoLlamaForConditionalGeneration

    torch.manual_seed(0)
    model = VideoLlamaForConditionalGeneration(settings.nano_config(300, 1, 2, 0))
    trained = branches.freeze_all_but(model, *branches.AUDIO_NAMES)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith(branches.AUDIO_NAMES) for name in names)
    assert not any("imagebind" in name for name in names)
    assert not model.vision_branch.vision_encoder.training
    assert not model.audio_branch.imagebind.training
    assert model.audio_branch.qformer.training


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 3, 3, 3)])
def test_muon_turns_by_as_much_in_every_direction(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(shape))
    # Of a gradient that is nearly all in one direction.
    left = torch.randn(shape[0], 1, generator=generator)
    right = torch.randn(1, weight[0].numel(), generator=generator)
    weight.grad = (10 * left @ right).view(shape) + torch.randn(shape, generator=generator)
    before = torch.linalg.svdvals(weight.grad.flatten(1))
    assert before.max() > 20 * before.median()
    optimizer = loop.Muon([weight])
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    singular = torch.linalg.svdvals(weight.detach().flatten(1))
    wide = max(1.0, (shape[0] / weight[0].numel()) ** 0.5)
    assert singular.max() < 0.13 * wide
    assert singular.median() > 0.06 * wide


def test_what_muon_is_for_are_products() -> None:
    stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    layers = torch.nn.ModuleList([stem, torch.nn.Embedding(5, 8), torch.nn.Linear(8, 2)])
    assert [tuple(p.shape) for p in loop.products(layers)] == [(8, 3, 3, 3), (2, 8)]


def test_training_with_muon_goes_on_where_it_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "KEPT_EVERY", 3)
    target = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))

    def run(keep: Path | None, breaks_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 4)

        def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
            if step == breaks_at:
                raise KeyboardInterrupt
            return (layer.weight - target).square().sum() + layer.bias.square().sum(), {}

        turned = loop.products(layer)
        try:
            loop.train(
                "x", layer.parameters(), loss_of, 9, 1e-2, module=layer, keep=keep, turned=turned
            )
        except KeyboardInterrupt:
            return run(keep)
        return layer.weight.detach()

    assert torch.equal(run(tmp_path / "kept.pt", breaks_at=5), run(None))
