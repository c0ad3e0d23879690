"""What a recipe learns from, as it is opened."""

import json

import pytest

from video_llama.data.captions import INSTRUCTION
from video_llama.data.dataset import Prepared
from video_llama.data.mixture import Draw
from video_llama.training.material import open_material


@pytest.mark.parametrize("captions", ["captions", "descriptions"])
@pytest.mark.parametrize("format", ["auto", "captions"])
def test_a_file_of_captions_is_learnt_as_its_stage_does(recipe, tmp_path, captions, format):
    """Both stages have a `filter_cap.json`; its form does not tell which one it is."""
    path = tmp_path / "filter_cap.json"
    path.write_text(json.dumps({"annotations": [{"image_id": "1", "caption": "A dog."}]}))
    named = [{"path": str(path), "format": format}]
    material = open_material(
        recipe(captions=captions, data=named, **{"validation.data": [{"path": str(path)}]})
    )
    asked = [rows[0].messages[0]["content"][1:] for rows in material.dataset.rows]
    instruction = [{"type": "text", "text": INSTRUCTION}]
    described = captions == "descriptions"
    assert asked == [instruction if described and format == "auto" else []]
    assert material.validation is not None
    measured = material.validation.rows[0][0].messages[0]["content"][1:]
    assert measured == (instruction if described else [])


def test_what_the_language_model_has_no_places_for_is_refused(recipe, tmp_path, pictures):
    text = [{"type": "text", "text": "?"}]
    asked = [{"type": "image", "image": str(pictures.parent / "1.png")}, *text]
    rows = [
        {
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": "word " * count},
            ]
        }
        for count in (3, 3000)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = [{"path": str(path), "media": str(pictures.parent)}]
    short, long = (open_material(recipe(data=named)).dataset[Draw(n, 0, n, 0)] for n in range(2))
    assert isinstance(short, Prepared)
    assert "places; media.max_length cuts what is beyond" in long.reason
    cut = open_material(recipe(data=named, **{"media.max_length": 100})).dataset[Draw(1, 0, 1, 0)]
    assert len(cut.prompt.input_ids) == 100
