"""Both branches: padding among media, more frames and clips than rows, what trains."""

import pytest
import torch

from video_llama.errors import OptionError
from video_llama.models import ImageBindConfig, VideoLlamaConfig
from video_llama.models.imagebind import ImageBindAudio
from video_llama.models.qformer import position_rows

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def test_ragged_videos_are_each_alone(model, media):
    pixels = torch.cat([media["pixel_values_videos"]] * 2, dim=1)[:, :3]
    mask = torch.tensor([[True, True, True], [True, False, False]])
    with torch.no_grad():
        together = model.get_video_features(pixels, mask)
        torch.testing.assert_close(together[:1], model.get_video_features(pixels[:1]), **CLOSE)
        alone = model.get_video_features(pixels[1:, :1])
    torch.testing.assert_close(together[1:], alone, **CLOSE)


def test_what_stands_in_padded_frames_does_not_matter(model, media):
    pixels = media["pixel_values_videos"].clone()
    mask = torch.tensor([[True, True], [True, False]])
    with torch.no_grad():
        before = model.get_video_features(pixels, mask)
        pixels[1, 1] = 1e4
        assert torch.equal(before, model.get_video_features(pixels, mask))


def test_ragged_sounds_are_each_alone(model, media):
    clips = media["input_features"]
    mask = torch.tensor([[True, True], [True, False]])
    with torch.no_grad():
        together = model.get_audio_features(clips, mask)
        torch.testing.assert_close(together[:1], model.get_audio_features(clips[:1]), **CLOSE)
        alone = model.get_audio_features(clips[1:, :1])
    torch.testing.assert_close(together[1:], alone, **CLOSE)


def test_the_audio_branch_takes_pictures(model, media):
    with torch.no_grad():
        features = model.get_audio_features(media["pixel_values_videos"], modality="vision")
    config = model.config
    assert features.shape == (2, config.num_audio_query_tokens, config.text_config.hidden_size)


@pytest.mark.parametrize("extension", ["interpolate", "window"])
def test_more_frames_and_clips_than_rows(tiny_model, media, extension):
    model = tiny_model(position_extension=extension)
    frames = torch.cat([media["pixel_values_videos"]] * 4, dim=1)  # 8 frames, 4 rows
    clips = torch.cat([media["input_features"]] * 3, dim=1)  # 6 clips, 3 rows
    assert frames.shape[1] > model.config.max_frames
    assert clips.shape[1] > model.config.max_audio_clips
    with torch.no_grad():
        assert torch.isfinite(model.get_video_features(frames)).all()
        assert torch.isfinite(model.get_audio_features(clips)).all()


@pytest.mark.parametrize("extension", ["interpolate", "window"])
def test_a_short_medium_beside_one_with_more_than_rows_is_as_alone(tiny_model, media, extension):
    model = tiny_model(position_extension=extension)
    with torch.no_grad():  # so that positions matter
        model.vision_branch.frame_position_embedding.weight.normal_()
        model.audio_branch.position_embedding.weight.normal_()
    frames = torch.cat([media["pixel_values_videos"]] * 4, dim=1)  # 8 frames, 4 rows
    clips = torch.cat([media["input_features"]] * 3, dim=1)  # 6 clips, 3 rows
    for features, media_in, few, rows in (
        (model.get_video_features, frames, 3, model.config.max_frames),
        (model.get_audio_features, clips, 2, model.config.max_audio_clips),
    ):
        mask = torch.ones(media_in.shape[:2], dtype=torch.bool)
        mask[1, few:] = False
        assert few < rows < media_in.shape[1]
        with torch.no_grad():
            together = features(media_in, mask)
            torch.testing.assert_close(together[:1], features(media_in[:1]), **CLOSE)
            torch.testing.assert_close(together[1:], features(media_in[1:, :few]), **CLOSE)


def test_position_rows():
    table = torch.nn.Embedding(4, 2)
    with torch.no_grad():
        table.weight.copy_(torch.arange(4.0)[:, None].expand(-1, 2))
    for extension in ("interpolate", "window"):
        assert torch.equal(position_rows(table, 3, extension), table.weight[:3])
    stretched = position_rows(table, 7, "interpolate")[:, 0].detach()
    torch.testing.assert_close(stretched, torch.arange(7) / 2)
    assert position_rows(table, 8, "window")[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_frozen_modules_stay_in_evaluation_mode(tiny_model):
    model = tiny_model()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("vision_branch.video_qformer."))
    model.train()
    assert model.vision_branch.video_qformer.training
    assert not model.vision_branch.vision_encoder.training
    assert not model.vision_branch.qformer.training
    assert not model.audio_branch.imagebind.training
    modules = model.vision_branch.vision_encoder.modules()
    assert not any(module.training for module in modules)


@pytest.mark.parametrize("scaling", ["published", "unit", "centered"])
def test_feature_scaling(tiny_model, tiny_config, media, scaling):
    imagebind = {**tiny_config().imagebind_config.to_dict(), "feature_scaling": scaling}
    model = tiny_model(imagebind_config=imagebind)
    side = model.audio_branch.imagebind
    with torch.no_grad():
        heard = side.embed_audio(media["input_features"][0]).norm(dim=-1)
        seen = side.embed_vision(media["pixel_values_videos"][0]).norm(dim=-1)
    root = model.config.imagebind_config.embedding_size**0.5
    norms = {"published": (20.0, 1.0), "unit": (1.0, 1.0), "centered": (root, root)}[scaling]
    torch.testing.assert_close(heard, torch.full_like(heard, norms[0]))
    torch.testing.assert_close(seen, torch.full_like(seen, norms[1]))


def test_convolutional_stems(tiny_model, tiny_config, media, tmp_path):
    config = tiny_config()
    vision = {**config.vision_config.to_dict(), "patch_size": 4, "stem_channels": [6, 8]}
    imagebind = config.imagebind_config.to_dict()
    for side in ("vision", "audio"):
        imagebind |= {f"{side}_stem_channels": [6, 8]}
    model = tiny_model(vision_config=vision, imagebind_config=imagebind)
    with torch.no_grad():
        expected = model.get_video_features(media["pixel_values_videos"])
        heard = model.get_audio_features(media["input_features"])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded.get_video_features(media["pixel_values_videos"]), expected)
        assert torch.equal(loaded.get_audio_features(media["input_features"]), heard)


def test_a_sound_may_have_any_length():
    sizes = {"audio_hidden_size": 8, "audio_num_hidden_layers": 1, "audio_num_attention_heads": 2}
    sizes["audio_stem_channels"] = [4, 6, 8]
    config = ImageBindConfig(embedding_size=4, audio_mel_bins=17, audio_mel_frames=51, **sizes)
    assert ImageBindAudio(config)(torch.zeros(2, 1, 17, 51)).shape == (2, 4)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: VideoLlamaConfig(position_extension="stretch"), "position_extension"),
        (lambda: ImageBindConfig(feature_scaling="loud"), "feature_scaling"),
        (lambda: VideoLlamaConfig(video_token_id=5), "video_token_id"),
    ],
)
def test_bad_settings_name_the_field(build, field):
    with pytest.raises(OptionError, match=field):
        build()
