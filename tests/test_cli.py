"""The commands as a user meets them: output, errors, exit status."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from video_llama import commands, terminal
from video_llama.chat import VideoLlama
from video_llama.repl import Repl, split_paths, typed_lines

DOCS = Path(__file__).parents[1] / "docs"


def process(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "video_llama", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **options
    )


SHORT = ("--max-new-tokens", 12)


def test_ask_prints_the_answer_and_nothing_else(run, tiny_model_dir, clip_path):
    status, out, _ = run("ask", clip_path, "What?", "-m", tiny_model_dir, *SHORT)
    expected = VideoLlama.load(tiny_model_dir).ask(clip_path, "What?", max_new_tokens=12)
    assert (status, out) == (0, expected + "\n")


def test_ask_json(run, tiny_model_dir, clip_path):
    status, out, _ = run("ask", clip_path, "What?", "-m", tiny_model_dir, "--json", *SHORT)
    result = json.loads(out)
    assert status == 0
    assert set(result) == {
        "model",
        "question",
        "answer",
        "finish_reason",
        "tokens",
        "timings",
        "media",
        "warnings",
    }
    assert set(result["timings"]) == {"load", "decode", "encode", "prefill", "generation", "total"}
    assert set(result["tokens"]) == {"prompt", "reused", "generated"}
    assert result["media"][0]["sound"] == "used"


def test_options_reach_the_answer(run, tiny_model_dir, clip_path):
    def ask(*options):
        base = ("ask", clip_path, "?", "-m", tiny_model_dir, "--json", *SHORT)
        return json.loads(run(*base, *options)[1])

    hot = ("--temperature", 2, "--seed")
    assert ask(*hot, 1)["answer"] == ask(*hot, 1)["answer"]
    assert len({ask(*hot, seed)["answer"] for seed in range(3)}) > 1
    assert ask("--top-k", 1, *hot, 5)["answer"] == ask()["answer"]
    assert ask("--frames", 2)["media"][0]["frames"] == 2
    assert ask("--no-sound")["media"][0]["sound"] == "left out"
    first = ask()["answer"][3]
    assert ask("--stop", first)["answer"] == ask()["answer"].split(first)[0].strip()
    assert ask("--dtype", "bf16", "--quantization", "int8")["answer"]


def test_several_media_and_the_standard_input(tiny_model_dir, clip_path):
    done = process(
        "ask", clip_path, "-", "?", "-m", tiny_model_dir, "--json", *SHORT,
        stdin=clip_path.open("rb"),
    )  # fmt: skip
    assert [use["name"] for use in json.loads(done.stdout)["media"]] == ["clip.mkv", "<stdin>"]


def test_warnings_go_to_stderr(run, tiny_model_dir, tmp_path, write_clip):
    clip = write_clip(tmp_path / "quiet.mkv", tone=0)
    _, out, err = run("ask", clip, "?", "-m", tiny_model_dir, *SHORT)
    assert "warning: the sound of quiet.mkv is digital silence" in err
    assert "warning" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4", "What?"], "no such file: nowhere.mp4"),
        (["text.mp4", "What?"], "text.mp4"),
        (["folder.mp4", "What?"], "directory"),
        (["http://127.0.0.1:9/x.mp4", "What?"], "127.0.0.1"),
        (["text.mp4", "What?", "--top-p", "7"], "top_p"),
        (["text.mp4", "What?", "--dtype", "fp64"], "fp64"),
        (["text.mp4", "What?", "--device", "cuda:99"], "cuda:99"),
        (["text.mp4", "What?", "--model", "./missing"], "missing"),
        (["text.mp4", "What?", "--quantization", "int3"], "int3"),
    ],
)
def test_errors_are_a_line_and_status_1(run, tiny_model_dir, tmp_path, arguments, message):
    (tmp_path / "text.mp4").write_text("no film at all")
    (tmp_path / "folder.mp4").mkdir()
    model = [] if "--model" in arguments else ["-m", tiny_model_dir]
    status, out, err = run("ask", *arguments, *model)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert err.count("\n") <= 2

    status, out, _ = run("ask", *arguments, *model, "--json")
    assert status == 1
    assert message in json.loads(out)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["here.mp4"], "the question is missing"),
        (["What is this?"], "no media are given"),
        (["Is this a cat/dog?"], "no media are given"),
        (["What is this?", "here.mp4"], "the question comes last"),
        (["here.mp4", "What", "is", "this?"], "quotes"),
        ([], "Missing argument"),
        (["here.mp4", "?", "--max-new-tokens", "0"], "max-new-tokens"),
        (["here.mp4", "?", "--frames", "many"], "frames"),
    ],
)
def test_wrong_arguments_are_status_2(run, tmp_path, arguments, message):
    (tmp_path / "here.mp4").write_bytes(b"x")
    status, _, err = run("ask", *arguments)
    assert status == 2
    assert message in err


@pytest.mark.parametrize("question", ["What is the dog doing? " * 20, "狗是什么颜色的？" * 30])
def test_a_question_may_be_longer_than_the_name_of_a_file(run, tiny_model_dir, clip_path, question):
    status, out, _ = run("ask", clip_path, question, "-m", tiny_model_dir, *SHORT)
    assert (status, bool(out.strip())) == (0, True)
    assert "no media are given" in run("ask", question)[2]


def test_a_file_without_suffix_that_is_not_there_is_told_as_such(run):
    status, _, err = run("ask", "clip", "What is this?")
    assert (status, "no such file: clip" in err) == (1, True)


def test_a_history_that_cannot_be_kept_is_a_warning(tmp_path, monkeypatch, capsys):
    taken = tmp_path / "taken"
    taken.write_text("a file, and no folder")
    monkeypatch.setenv("VIDEO_LLAMA_HISTORY", str(taken / "history"))
    monkeypatch.setattr("video_llama.repl._prompted", typing("What?", "And?"))
    assert list(typed_lines()) == ["What?", "And?"]
    assert capsys.readouterr().err.count("warning: questions cannot be kept") == 1


def test_a_question_is_kept_at_once_and_beside_those_of_others(tmp_path, monkeypatch):
    history = tmp_path / "new" / "history"
    monkeypatch.setenv("VIDEO_LLAMA_HISTORY", str(history))
    monkeypatch.setattr("video_llama.repl._prompted", typing("Mine?", "", "And mine?"))
    lines = typed_lines()
    assert next(lines) == "Mine?"
    assert history.read_text().splitlines()[-1:] == ["Mine?"]
    with history.open("a") as other:
        other.write("Another's?\n")
    assert list(lines) == ["", "And mine?"]
    assert history.read_text().splitlines()[-3:] == ["Mine?", "Another's?", "And mine?"]
    assert history.stat().st_mode & 0o777 == 0o600


def typing(*lines):
    """What `_prompted` gives; readline remembers what is not empty, as when it is typed."""

    def prompted():
        readline = pytest.importorskip("readline")
        for line in lines:
            if line:
                readline.add_history(line)
            yield line

    return prompted


def test_what_looks_like_a_file():
    assert commands.argument_mistake(["clip.mp4"], "What?") is None
    assert (
        commands.argument_mistake(["https://a.example/x", "data:video/mp4;base64,AA"], "?") is None
    )
    assert commands.argument_mistake(["folder/clip", "-"], "Is a.mp4 louder?") is None
    for missing in ("missing.mp4", "https://a.example/b", "data:image/png;base64,AA"):
        said = commands.argument_mistake(["clip.mp4"], missing)
        assert said is not None
        assert "the question is missing" in said


def test_a_fault_is_told_in_two_lines_and_with_a_traceback_on_request():
    code = (
        "import sys, video_llama.commands as c\n"
        "from video_llama.cli import main\n"
        "def broken(*_, **__): raise KeyError('inside')\n"
        "c.run_ask = broken\n"
        "main(['ask', 'a.mp4', '?'])\n"
    )
    for debug, traceback in (("", False), ("1", True)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "VIDEO_LLAMA_DEBUG": debug},
        )
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == traceback
        assert "inside" in done.stderr


def test_debug_shows_where_an_error_was_raised(run, tiny_model_dir):
    _, _, err = run("--debug", "ask", "nowhere.mp4", "?", "-m", tiny_model_dir)
    assert "Traceback" in err
    assert "error: no such file: nowhere.mp4" in err


# chat

CUT = "warning: the answer was cut after 8 tokens\n"


@pytest.fixture
def talk(tiny_model_dir, clip_path):
    """Run lines through the prompt; (worked, stdout, stderr)."""
    session = VideoLlama.load(tiny_model_dir, device="cpu").chat(clip_path)

    def talk(*lines: str) -> tuple[bool, str, str]:
        out, err = io.StringIO(), io.StringIO()
        return Repl(session, out, err, max_new_tokens=8).run(lines), out.getvalue(), err.getvalue()

    talk.session = session
    return talk


def test_questions_are_answered_in_turn(talk):
    worked, out, err = talk("What?", "", "And?")
    answers = [message["content"] for message in talk.session.history if "media" not in message]
    assert worked
    assert out == f"{answers[0]}\n{answers[2]}\n"
    assert err == 2 * CUT


def test_media_reset_and_history(talk, tmp_path, write_clip):
    second = write_clip(tmp_path / "with space.wav", picture=False)
    worked, out, _ = talk("What?", f"/media {second}", f"/media '{second}'", "/history", "/reset")
    assert worked
    assert out.count("with space.wav (audio, 1.0 s): picture absent, sound used") == 3
    assert "user: What?" in out
    assert talk.session.history == []
    assert len(talk.session.media) == 3


def test_quit_ends_and_help_lists(talk):
    worked, out, err = talk("\ufeff/help", "/quit\tnow", "never asked")
    assert (worked, err) == (True, "")
    assert "/media" in out
    assert talk.session.history == []


def test_errors_do_not_end_a_conversation(talk):
    worked, out, err = talk("/media nowhere.mp4", "/dance", "What?")
    assert not worked
    assert err.splitlines() == [
        "error: no such file: nowhere.mp4",
        "error: there is no command /dance; /help lists them",
        CUT.strip(),
    ]
    assert out.strip()


def test_what_is_no_text_does_not_end_a_conversation(talk):
    worked, out, err = talk("half a \udce9 letter", "What?")
    assert not worked
    assert err == "error: the question is not text in UTF-8\n" + CUT
    assert out.strip()


def test_an_interrupt_stops_an_answer_only(talk, monkeypatch):
    real = talk.session.stream

    def interrupted(question, **options):
        stream = real(question, **options)
        yield next(stream)
        raise KeyboardInterrupt

    monkeypatch.setattr(talk.session, "stream", interrupted)
    worked, out, _ = talk("What?", "And?")
    assert worked
    assert out.count(" ...\n") == 2


def test_an_interrupt_while_a_file_is_read_leaves_it_out(talk, clip_path, tmp_path, monkeypatch):
    """And the file is not read to its end first."""
    over = threading.Event()

    def read(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        over.wait(60)

    monkeypatch.setattr("video_llama.media_cache.read", read)
    other = tmp_path / "other.mkv"
    other.write_bytes(clip_path.read_bytes() + b"more")
    worked, out, err = talk(f"/media {other}", "What?")
    assert not over.is_set()
    over.set()
    assert worked
    assert "stopped; nothing was added" in err
    assert len(talk.session.media) == 1
    assert out.strip()


def test_chat_through_a_pipe(tiny_model_dir, clip_path):
    done = process("chat", clip_path, "-m", tiny_model_dir, *SHORT, input="What?\n/nothing\nAnd?\n")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) >= 2
    assert done.stderr.count("error:") == 1
    assert ">" not in done.stdout.splitlines()[0][:2]


def test_paths_after_media(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.mp4").touch()
    assert split_paths("a b.mp4") == ["a b.mp4"]
    assert split_paths("'c d.mp4' e.mp4") == ["c d.mp4", "e.mp4"]
    assert split_paths("it's.mp4") == ["it's.mp4"]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert split_paths("~/a b.mp4") == [f"{tmp_path}/a b.mp4"]
    assert split_paths("~/c.mp4 d.mp4") == [f"{tmp_path}/c.mp4", "d.mp4"]
    assert split_paths(" ".join(["long.mp4"] * 99)) == ["long.mp4"] * 99


def test_one_line_of_a_pipe_that_is_no_text_is_refused_alone(tiny_model_dir, clip_path):
    code = "from video_llama.cli import main; main()"
    given = ["chat", str(clip_path), "-m", str(tiny_model_dir), *map(str, SHORT)]
    done = subprocess.run(
        [sys.executable, "-c", code, *given],
        input=b"What?\ncaf\xe9\nAnd?\n",
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 1
    assert done.stderr.count(b"error: the question is not text in UTF-8") == 1
    assert b"fault" not in done.stderr
    assert len(done.stdout.splitlines()) >= 2


def test_the_standard_input_of_a_chat_is_for_questions(run):
    status, _, err = run("chat", "-")
    assert (status, "questions come from the standard input" in err) == (2, True)


# The rest


def test_json_loses_nothing_where_stdout_is_not_utf_8(tiny_model_dir, clip_path):
    code = "from video_llama.cli import main; main()"
    given = ["ask", str(clip_path), "什么?", "-m", str(tiny_model_dir), *map(str, SHORT), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *given],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert json.loads(done.stdout)["question"] == "什么?"


def test_verify(run, tiny_model_dir, tmp_path):
    status, out, _ = run("verify", tiny_model_dir, "--deep")
    assert status == 0
    assert "nothing wrong" in out
    report = json.loads(run("verify", tiny_model_dir, "--json")[1])
    assert report["passed"]
    (tmp_path / "empty").mkdir()
    status, out, _ = run("verify", "empty")
    assert status == 1
    assert "FAIL" in out


def test_verify_names_what_is_missing(run):
    status, _, err = run("verify", "./nowhere")
    assert status == 1
    assert "nowhere" in err


@pytest.mark.parametrize("arguments", [["only"], ["a", "b", "c"], ["--back", "a"]])
def test_convert_wants_a_folder_and_an_output(run, arguments):
    status, _, err = run("convert", *arguments)
    assert status == 2
    assert "OUTPUT" in err


def test_convert_and_back(run):
    """The tiny published set of the parity kit, if the tests have it."""
    kit = Path(os.environ.get("VIDEO_LLAMA_PARITY_DIR", Path(__file__).parent / "parity" / "kit"))
    source = kit / "checkpoint_layout"
    if not source.is_dir():
        pytest.skip("no parity kit")
    config = json.loads((source / "layout.json").read_text(encoding="utf-8"))["config"]
    heads = config["bert"]["num_attention_heads"]
    settings = {
        "vision_config.num_hidden_layers": config["eva"]["depth"],
        "vision_config.num_attention_heads": config["eva"]["num_heads"],
        "imagebind_config.vision_num_attention_heads": config["imagebind"]["vision_num_heads"],
        "imagebind_config.audio_num_attention_heads": config["imagebind"]["audio_num_heads"],
        "qformer_config.num_attention_heads": heads,
        "video_qformer_config.num_attention_heads": heads,
        "audio_qformer_config.num_attention_heads": heads,
    }
    given = ["--template", "vicuna"]
    for name, value in settings.items():
        given += ["--set", f"{name}={value}"]
    status, out, err = run("convert", source, "ours", *given, "--json")
    assert status == 0, err
    assert json.loads(out)["template"] == "vicuna"
    status, out, err = run("convert", "--back", "ours", "theirs")
    assert status == 0, err
    assert "language_model" in out
    status, _, err = run("convert", source, "ours", *given)
    assert status == 1
    assert "--overwrite" in err
    status, _, err = run("convert", source, "other", "--set", "depth")
    assert status == 2
    assert "FIELD=VALUE" in err


def test_world(run):
    status, out, _ = run("world", "made", "--count", 2, "--seed", 3, "--seconds", 1, "--json")
    assert status == 0
    assert Path(json.loads(out)["listing"]).is_file()
    status, _, err = run("world", "made", "--count", 2, "--seconds", 2)
    assert status == 1
    assert err.startswith("error: ")


def test_version(run):
    assert run("--version")[1].startswith("video-llama 0.")


# The process


@pytest.mark.parametrize("arguments", [[], ["ask"], ["convert"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys\nfrom video_llama.cli import main\n"
        f"try:\n    main({[*arguments, '--help']!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'av', 'numpy', 'PIL', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_the_documented_help_is_the_real_one():
    """Run docs/generate_cli.py after changing the commands."""
    done = subprocess.run(
        [sys.executable, DOCS / "generate_cli.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_share_of_a_container_counts(tmp_path):
    limit = tmp_path / "cpu.max"
    assert terminal._container_share(limit) is None
    limit.write_text("max 100000\n")
    assert terminal._container_share(limit) is None
    limit.write_text("150000 100000\n")
    assert terminal._container_share(limit) == 2
    assert terminal.usable_cores() >= 1


def test_an_answer_cannot_control_a_terminal():
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, pipe = Screen(), io.StringIO()
    for out in (screen, pipe):
        terminal.write("a\x1b[2Jb\x07\n\t狗", out)
    assert screen.getvalue() == "a[2Jb\n\t狗"
    assert pipe.getvalue() == "a\x1b[2Jb\x07\n\t狗"
