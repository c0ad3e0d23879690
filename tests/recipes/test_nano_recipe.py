"""The recipe of the embedded model, in miniature: every step runs, and a finished one is kept."""

import json
from pathlib import Path

import pytest
import torch

from recipes.nano import branches, encoders, evaluate, language, render, settings, text, train
from recipes.nano.card import card
from recipes.nano.facts import AUDIO_WORDS, NOTHING, VIDEO_WORDS, audio_words, video_words
from video_llama.data.world.scene import HELD_OUT_SEED, Group, Scene, scene_from_seed


def test_words_of_a_scene_are_words_of_the_queries() -> None:
    for seed in range(200):
        scene = scene_from_seed(seed)
        for word, words in zip(video_words(scene), VIDEO_WORDS, strict=True):
            assert word in words
        if scene.sound:
            for word, words in zip(audio_words(scene.sound), AUDIO_WORDS, strict=True):
                assert word in words


def test_nothing_is_said_of_motion_in_a_picture() -> None:
    still = (Group("dog", "red"),)
    assert video_words(Scene(still, seconds=0.0))[3] == NOTHING
    assert video_words(Scene(still, seconds=2.0))[3] == "still"


def test_training_seeds_are_not_held_out() -> None:
    assert max(settings.SCENES.values()) < HELD_OUT_SEED
    assert language.TALKS < HELD_OUT_SEED


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in settings.SCENES:
        monkeypatch.setitem(render.SCENES, kind, 160)
    monkeypatch.setattr(language, "TALKS", 64 * 16)
    monkeypatch.setattr(language, "ROUNDS", ((1, 1e-3, 1.0, 1.0), (1, 1e-3, 0.0, 1.0)))
    monkeypatch.setattr(encoders, "VISION_STEPS", 2)
    monkeypatch.setattr(encoders, "BATCH", 16)
    monkeypatch.setattr(encoders, "PICTURE_STEPS", 2)
    monkeypatch.setattr(encoders, "SOUND_STEPS", 2)
    monkeypatch.setattr(branches, "VISION_STEPS", (2, 1))
    monkeypatch.setattr(branches, "AUDIO_STEPS", (2, 1))
    monkeypatch.setattr(text, "TOKENIZER_TALKS", 300)


@pytest.mark.usefixtures("miniature")
def test_every_step_runs_and_the_model_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, out = tmp_path / "work", tmp_path / "model"
    train.build(settings.work_dir(work), out)
    first = (out / "model.safetensors").read_bytes()
    capsys.readouterr()

    train.build(work, out)  # everything is there already
    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in steps if "step" in line] == []
    assert (out / "model.safetensors").read_bytes() == first

    figures = evaluate.evaluate(out, 4)
    assert sum(row["n"] for row in figures["questions"].values()) > 20
    assert "audio_branch.imagebind" in card(out, figures, figures)


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
