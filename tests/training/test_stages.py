"""The published stages: what trains, and at which rate."""

import pytest
import torch

from video_llama.errors import OptionError
from video_llama.models import VideoLlamaConfig, VideoLlamaForConditionalGeneration
from video_llama.training.schedule import WarmupCosine
from video_llama.training.stages import STAGES, decay_groups, set_trainable


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return VideoLlamaForConditionalGeneration(VideoLlamaConfig())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vision_stage1", 22_104_064),
        ("vision_stage2", 22_104_064),
        ("audio_stage1", 22_855_680),
        ("audio_stage2", 22_855_680),
    ],
)
def test_as_many_parameters_train_as_published_files_hold(full_size, name, parameters):
    trained = set_trainable(full_size, STAGES[name])
    assert len(trained) == 58
    count = sum(p.numel() for p in full_size.parameters() if p.requires_grad)
    assert count == parameters


def test_what_is_frozen_is_in_evaluation_mode(full_size):
    full_size.train()
    set_trainable(full_size, STAGES["audio_stage1"])
    branch = full_size.audio_branch
    assert branch.qformer.training
    assert branch.qformer.encoder.layer[0].training
    assert not branch.imagebind.training
    assert not full_size.vision_branch.video_qformer.training
    assert not full_size.language_model.training


def test_a_stage_of_a_branch_that_is_not_there():
    with torch.device("meta"):
        model = VideoLlamaForConditionalGeneration(VideoLlamaConfig(has_audio_branch=False))
    with pytest.raises(OptionError, match="audio_stage1 trains 'audio_branch"):
        set_trainable(model, STAGES["audio_stage1"])


def test_decay_groups_hold_what_trains(full_size):
    trained = set_trainable(full_size, STAGES["vision_stage1"])
    decayed, spared = decay_groups(full_size, 0.05)
    assert len(decayed["params"]) + len(spared["params"]) == len(trained)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in spared["params"])


def test_rates_with_torchs_own_scheduler():
    schedule = STAGES["vision_stage2"].schedule
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=schedule.peak)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor())
    for step in range(5):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule.rate(step))
        optimizer.step()
        scheduler.step()


def test_rates_stay_between_start_floor_and_peak():
    for stage in STAGES.values():
        schedule = stage.schedule
        rates = [schedule.rate(step) for step in range(0, schedule.total_steps, 37)]
        assert min(rates) >= schedule.start
        assert max(rates) <= schedule.peak
        assert schedule.rate(schedule.total_steps) == pytest.approx(schedule.floor)


@pytest.mark.parametrize("field", ["steps_per_epoch", "epochs"])
def test_bad_schedules(field):
    numbers = {"warmup_steps": 1, "steps_per_epoch": 1, "epochs": 1, field: 0}
    with pytest.raises(OptionError, match=field):
        WarmupCosine(1e-4, 1e-5, 1e-6, **numbers)
    with pytest.raises(OptionError, match="warmup_steps"):
        WarmupCosine(1e-4, 1e-5, 1e-6, warmup_steps=-1, steps_per_epoch=1, epochs=1)
