"""The table of the claim, from results as `video-llama eval claim` writes them."""

import json
import subprocess
import sys

import pytest

from recipes.nano.material import Material
from recipes.nano.train import claim
from recipes.reproduce import __main__ as reproduce
from recipes.reproduce import make, parts, variants, world
from recipes.reproduce.table import main, make_rows, plot, read_reports, table
from recipes.reproduce.variants import VARIANTS, builds_of

SHARES = {"pictures": (0.7, 0.5, 0.6), "turned": (0.1, 0.1, 0.1), "sounds": (0.8, 0.9, 0.7)}


def _kind(micro: float, n: int = 20) -> dict[str, float]:
    return {
        "n": n,
        "things": 4,
        "micro": micro,
        "macro": micro - 0.05,
        "english": micro + 0.02,
        "chinese": micro - 0.02,
        "chance": 0.08,
        "macro_chance": 0.05,
    }


@pytest.fixture
def results(tmp_path):
    for variant, shares in SHARES.items():
        for seed, share in enumerate(shares):
            kinds = {"picture": _kind(0.66), "sound": _kind(share, n=40)}
            kinds |= {f"match, {side}": _kind(share) for side in ("agreeing", "contradicting")}
            metrics = {"by_kind": kinds, "match_balanced": share}
            metrics |= {"verb_given_thing": None, "thing_given": 0}
            if variant != "turned":
                metrics |= {"verb_given_thing": 0.97, "thing_given": round(40 * share)}
            folder = tmp_path / f"{variant}-{seed}"
            folder.mkdir()
            settings = {"sha256": f"{variant}{seed}", "configuration_sha256": "c", "data": {}}
            report = {"settings": {**settings, "dtype": "float32", "template": "plain"}}
            report |= {"software": {"torch": "2"}, "device": "cpu", "metrics": metrics}
            (folder / "claim.json").write_text(json.dumps(report))
    (tmp_path / "something-else").mkdir()
    return tmp_path


def test_the_mean_over_seeds_stands_with_its_range_and_chance(results):
    lines = table(make_rows(read_reports(results))).splitlines()
    heard = next(line for line in lines if line.startswith("| heard |"))
    assert heard == (
        "| heard | 40 | 0.600 (0.500 to 0.700) | 0.100 | 0.800 (0.700 to 0.900) | 0.080 |"
    )
    macro = next(line for line in lines if "mean over things" in line)
    assert macro.startswith("| heard, mean over things | 40 | 0.550")
    assert macro.endswith(" | 0.050 |")
    english = next(line for line in lines if "English" in line)
    assert english.split(" | ")[1] == "20"
    assert any(line.startswith("| do they match? both halves | 40 ") for line in lines)


def test_the_verb_is_a_share_of_the_answers_that_name_the_thing(results):
    verb = table(make_rows(read_reports(results))).splitlines()[-1]
    assert (
        verb == "| right verb, where the thing is right | 24, 0, 32 | 0.970 | of none | 0.970 |  |"
    )


def test_kinds_without_answers_have_no_row(results):
    titles = [row.title for row in make_rows(read_reports(results))]
    assert "seen: motion of a cut-out" not in titles
    assert "seen: photograph, commonest things" in titles


def test_the_plot_is_a_picture(results, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "claim.png"
    plot(make_rows(read_reports(results)), path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="eval claim"):
        read_reports(tmp_path)


def test_the_command_writes_the_rows(results, tmp_path, monkeypatch, capsys):
    out = tmp_path / "table.json"
    monkeypatch.setattr("sys.argv", ["table", str(results), "--json", str(out)])
    main()
    assert "seeds: trained on pictures 3" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["rows"][1]["shares"]["pictures"] == [0.7, 0.5, 0.6]
    assert [one["sha256"] for one in found["measured"]["turned"]] == [
        "turned0",
        "turned1",
        "turned2",
    ]
    monkeypatch.setattr("sys.argv", ["table", str(results), "--seeds", "1", "2"])
    main()
    assert "seeds: trained on pictures 2" in capsys.readouterr().out  # not of builds before


def test_the_worlds_table_is_of_several_builds_too(tmp_path, monkeypatch, capsys):
    paths = []
    for share in (0.9, 0.8):
        row = {"n": 20, "accuracy": share, "english": share, "chinese": share, "chance": 0.1}
        metrics = {"accuracy": share, "yes_share": 0.5, "yes_true": 0.5}
        report = {"metrics": {**metrics, "by_kind": {"colour": row}}, "answers": [1]}
        report["settings"] = dict.fromkeys(("sha256", "configuration_sha256", "dtype", "data"), "")
        report |= {"software": {"torch": "2"}, "device": "cpu"}
        paths.append(tmp_path / f"{share}.json")
        paths[-1].write_text(json.dumps(report))
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["world", *map(str, paths), "--json", str(out)])
    world.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| colour | 20 | 0.850 (0.800 to 0.900) | 0.100 |"
    assert lines[-1] == "| yes true there |  | 0.500 |  |"
    found = json.loads(out.read_text())
    assert found["builds"] == len(found["measured"]) == 2
    assert found["metrics"]["by_kind"]["colour"]["accuracy"]["mean"] == 0.85


def test_one_command_does_every_step_and_stops_where_one_fails(tmp_path, monkeypatch):
    ran = []

    def run(command, check):
        ran.append(command[2:])
        return subprocess.CompletedProcess(command, int(failing in command))

    monkeypatch.setattr(reproduce.subprocess, "run", run)
    given = ["", "--work", "w", "--photographs", "p", "--out", str(tmp_path), "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", given)
    failing = ""
    reproduce.main()
    names = [command[0].rpartition(".")[2] for command in ran]
    assert names == ["make", "variants", *["video_llama"] * 2 * len(VARIANTS), "table"]
    assert ["--model", str(tmp_path / "models/turned-1")] in [
        command[index : index + 2] for command in ran for index in range(len(command))
    ]
    ran.clear()
    failing = "eval"
    with pytest.raises(SystemExit):
        reproduce.main()
    names = [command[0].rpartition(".")[2] for command in ran]
    assert names == ["make", "variants", "video_llama"]


def test_media_of_one_split_are_not_taken_for_those_of_another(tmp_path, monkeypatch):
    shards, out = tmp_path / "shards", tmp_path / "media"
    shards.mkdir()
    out.mkdir()
    given = ["", "--shards", str(shards), "--out", str(out)]
    (out / "claim.jsonl").write_text("finished\n")
    monkeypatch.setattr(sys, "argv", [*given, "--split", "val"])
    make.main()
    make.main()
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit, match=r"made from the val split .* has the test split .*--out"):
        make.main()
    assert (out / "claim.jsonl").read_text() == "finished\n"


def test_branches_of_another_build_are_trained_anew(tmp_path, monkeypatch):
    build, out, trained = tmp_path / "build", tmp_path / "out", []

    def train_variant(_, variant, seed, folder):
        folder.mkdir(parents=True, exist_ok=True)
        assert not (folder / "claim.answers.jsonl").exists()
        (folder / "claim.answers.jsonl").touch()
        trained.append(f"{variant}-{seed}")

    build.mkdir()
    for name in variants.PARTS:
        (build / name).write_bytes(b"one")
    claim(Material(build, seed=3))
    monkeypatch.setattr(variants, "train_variant", train_variant)
    given = ["", "--work", str(build), "--out", str(out), "--seeds", "3"]
    monkeypatch.setattr(sys, "argv", given)
    variants.main()
    assert trained == [f"{variant}-3" for variant in VARIANTS]
    variants.main()
    assert len(trained) == len(VARIANTS)
    (build / "vision_branch.pt").write_bytes(b"another")
    variants.main()
    assert len(trained) == 2 * len(VARIANTS)


def test_several_builds_have_one_branch_each_of_their_own_seed(tmp_path):
    builds = [tmp_path / name for name in "ab"]
    for seed, build in enumerate(builds):
        build.mkdir()
        claim(Material(build, seed=seed))
    assert builds_of(builds, None) == dict(enumerate(builds))
    assert builds_of(builds[:1], [4, 5]) == {4: builds[0], 5: builds[0]}
    with pytest.raises(SystemExit, match="--seeds is for one build"):
        builds_of(builds, [4, 5])
    with pytest.raises(SystemExit, match=r"a and .*a are both of seed 0; .*--seed"):
        builds_of([builds[0], builds[0]], None)


def test_figures_of_several_builds_are_told_as_their_mean_and_ends():
    reports = [{"sound": {"n": 9, "micro": share}} for share in (0.5, 0.7, 0.9)]
    assert parts.joined(reports) == {
        "sound": {"n": 9, "micro": {"mean": 0.7, "lowest": 0.5, "highest": 0.9}}
    }
    assert parts.joined(reports[:1]) == reports[0]
