"""The table of keys, read in both directions."""

import pytest

from video_llama.checkpoints.table import LOAD_ORDER, RULES, droppable, to_ours, to_published


def examples(pattern):
    for part in ("weight", "bias"):
        yield pattern.format(i=7, p=part, rest="model.layers.7.mlp.up_proj.weight")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.published)
def test_every_rule_goes_both_ways(rule):
    for published, ours in zip(examples(rule.published), examples(rule.ours), strict=True):
        target = to_ours(published)
        assert (target.name, target.part) == (ours, rule.part)
        assert published in [entry.name for entry in to_published(ours)]
        assert droppable(published) is None


def test_every_kind_but_the_projection_has_rules():
    assert {rule.kind for rule in RULES} == set(LOAD_ORDER) - {"projection"}


@pytest.mark.parametrize(
    "key",
    ["", "vision_proj", "query_token", "visual_encoder.blocks.x.norm1.weight", "Qformer.bert"],
)
def test_other_keys_are_in_neither(key):
    assert to_ours(key) is None
    assert droppable(key) is None


def test_a_bias_has_two_pieces():
    ours = "vision_branch.vision_encoder.encoder.layers.3.self_attn.qkv.bias"
    pieces = {entry.part: entry.name for entry in to_published(ours)}
    assert pieces == {
        "query": "visual_encoder.blocks.3.attn.q_bias",
        "value": "visual_encoder.blocks.3.attn.v_bias",
    }
