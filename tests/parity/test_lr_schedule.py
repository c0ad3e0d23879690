"""Learning rates against the original's, step by step."""

import pytest

from video_llama.training.schedule import WarmupCosine
from video_llama.training.stages import STAGES


def from_arguments(arguments):
    return WarmupCosine(
        peak=arguments["init_lr"],
        floor=arguments["min_lr"],
        start=arguments["warmup_start_lr"],
        warmup_steps=arguments["warmup_steps"],
        steps_per_epoch=arguments["iters_per_epoch"],
        epochs=arguments["max_epoch"],
    )


def test_every_recorded_point(kit):
    for recorded in kit.json("lr_schedule")["schedules"]:
        schedule = from_arguments(recorded["args"])
        for epoch, iteration, rate in recorded["points_epoch_iter_lr"]:
            step = epoch * schedule.steps_per_epoch + iteration
            assert schedule.rate(step) == pytest.approx(rate, rel=1e-12), recorded["name"]


def test_stages_have_the_recorded_schedules(kit):
    facts = kit.json("lr_schedule")
    named = {entry["name"]: entry for entry in facts["schedules"] if entry["name"] in STAGES}
    for name, recorded in named.items():
        assert STAGES[name].schedule == from_arguments(recorded["args"])
        assert STAGES[name].weight_decay == facts["weight_decay"]
