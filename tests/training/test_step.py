"""One step: the recorded losses, one mean over all tokens, and a stop before a bad update."""

import io

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from video_llama.data.collator import Batch, Collator
from video_llama.data.dataset import Rejected
from video_llama.data.mixture import Draw
from video_llama.errors import TrainingError
from video_llama.training.loop import StepRunner, seed_step
from video_llama.training.material import open_material
from video_llama.training.optim import gradient_norm
from video_llama.training.parallel import Processes
from video_llama.training.prepare import prepare
from video_llama.training.step import TrainingStep
from video_llama.training.trainer import train


@pytest.fixture
def made(recipe, quiet_model_dir):
    return recipe(**{"model.path": str(quiet_model_dir)})


@pytest.fixture
def prepared(made):
    return prepare(made, torch.device("cpu"))


@pytest.fixture
def batch(made, prepared):
    material = open_material(made)
    return Collator(material.dataset.processor)(
        [material.dataset[Draw(n, 0, n, 0)] for n in range(4)]
    )


def test_the_loss_is_that_of_the_model(prepared, batch):
    losses, count = TrainingStep(prepared.model)(batch)
    whole = prepared.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values_videos=batch.frames,
        labels=batch.labels,
    ).loss
    assert int(count) == int((batch.labels != -100).sum())
    assert losses.item() / int(count) == pytest.approx(whole.item(), rel=1e-6)


def test_accuracy_counts_the_likeliest_tokens(prepared, batch):
    score = TrainingStep(prepared.model).score(batch)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    logits = prepared.model(**inputs, pixel_values_videos=batch.frames).logits
    wanted = batch.labels[:, 1:]
    assert int(score.correct) == int((logits[:, :-1].argmax(-1) == wanted).sum())
    assert int(score.tokens) == int((wanted != -100).sum())


def test_a_batch_of_nothing_has_zero_gradients(prepared):
    empty = Batch(None, None, None, rejected=[Rejected("a#1", 0, "bad")])
    losses, count = TrainingStep(prepared.model)(empty)
    losses.backward()
    assert (losses.item(), int(count)) == (0.0, 0)
    gradients = {n: p.grad for n, p in prepared.model.named_parameters() if p.requires_grad}
    assert gradients
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_parts_of_a_batch_add_up(made, prepared):
    """The mean over tokens, not the mean of means: samples differ in length."""
    material = open_material(made)
    samples = [material.dataset[Draw(n, 0, n, 0)] for n in range(4)]
    collator, step = Collator(material.dataset.processor), TrainingStep(prepared.model)
    whole, many = step(collator(samples))
    parts = [step(collator(part)) for part in (samples[:1], samples[1:])]
    assert sum(int(count) for _, count in parts) == int(many)
    total = sum(losses.item() for losses, _ in parts)
    assert total == pytest.approx(whole.item(), rel=1e-6)
    means = [losses.item() / int(count) for losses, count in parts]
    assert sum(means) / 2 != pytest.approx(whole.item() / int(many), rel=1e-4)


@pytest.fixture
def runner(made):
    """Runs steps of a module with one weight; a batch says what its loss is times."""

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, batch):
            scale = torch.tensor([float(key) for key in batch.keys])
            count = torch.tensor(len(batch.keys))
            return (self.weight * scale).sum() if len(scale) else self.weight * 0.0, count

    module = Weighted()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    return StepRunner(module, optimizer, Processes(made), 2, None, seed=0)


def keyed(*keys):
    return Batch(None, None, None, keys=list(keys))


def test_the_gradient_is_the_mean_over_all_tokens(runner):
    result = runner.run(0, iter([keyed("1"), keyed("2", "6", "7")]))
    assert (result.loss, result.tokens, result.norm) == (16.0, 4, 4.0)
    assert runner.wrapped.weight.item() == 1.0 - 4.0


@pytest.mark.parametrize(("odd", "what"), [("inf", "the loss"), ("nan", "the loss")])
def test_a_loss_that_is_not_finite_stops_before_the_update(runner, odd, what):
    with pytest.raises(TrainingError) as told:
        runner.run(4, iter([keyed("1", "2"), keyed("3", odd)]))
    assert str(told.value).startswith(f"{what} of step 5 is not a finite number, and nothing was")
    assert f"Its samples: 3, {odd}. Look" in str(told.value)  # not those of the other micro-step
    assert float(runner.wrapped.weight) == 1.0


def test_a_gradient_that_is_not_finite_stops_before_the_update(runner):
    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, batch):
            return self.weight.sqrt() * len(batch.keys), torch.tensor(len(batch.keys))

    steep = StepRunner(Steep(), runner.optimizer, runner.processes, 1, None, seed=0)
    keys = [f"rows#{number}" for number in range(20)]
    with pytest.raises(TrainingError) as told:
        steep.run(0, iter([keyed(*keys)]))
    assert "the gradient of step 1 is not a finite number" in str(told.value)
    assert "rows#15 and 4 more" in str(told.value)
    assert float(steep.wrapped.weight) == 0.0


def test_a_gradient_of_zero_is_told_in_the_first_step(runner):
    with pytest.raises(TrainingError, match="gets a gradient of zero in the first step"):
        runner.run(0, iter([keyed("0"), keyed("0")]))


def test_a_step_without_a_good_sample_changes_nothing(runner):
    result = runner.run(0, iter([keyed(), keyed()]))
    assert (result.tokens, result.norm) == (0, 0.0)
    assert float(runner.wrapped.weight) == 1.0


def test_a_run_that_bursts_is_stopped_and_kept(recipe):
    """A rate far too high, for real."""
    made = recipe(**{"schedule.peak": 1e30, "schedule.start": 1e30, "checkpoint.every": 1})
    with pytest.raises(TrainingError, match=r"of step 2 is not a finite number.*rows.jsonl#"):
        train(made, io.StringIO())
    kept = load_file(made.output_dir / "checkpoints/step-00000001/trained.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())
    assert not (made.output_dir / "checkpoints/step-00000002").exists()


def test_the_chance_of_a_step_is_its_own():
    def draw(*numbers):
        seed_step(*numbers)
        return torch.rand(3).tolist()

    assert draw(0, 5, 1) == draw(0, 5, 1)
    assert len({tuple(draw(*n)) for n in ((0, 5, 1), (0, 6, 1), (0, 5, 0), (1, 5, 1))}) == 4


def test_the_length_of_a_gradient():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter()]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert gradient_norm(parameters) == 5.0
