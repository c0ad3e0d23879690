"""The command `video-llama`: arguments and help texts. What commands do is in `commands.py`.

Exit status: 0, it worked; 1, it failed and stderr says why; 2, the arguments are wrong.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from video_llama import __version__, cli_data, cli_eval, cli_serve, cli_train, commands
from video_llama.terminal import DEBUG_VARIABLE, prepare_process

app = typer.Typer(
    name="video-llama",
    # Plain help: rich's takes as long to import as everything else together.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(cli_data.app, name="data")

Model = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="'nano', a directory or a hub id.")
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="'auto', 'cpu', 'cuda', 'cuda:1', ...")]
Dtype = Annotated[str, typer.Option(metavar="DTYPE", help="'auto', 'bf16', 'fp16' or 'fp32'.")]
Quantization = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="'int8': keep the language model's weights in 8 bits."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Longest answer in tokens.  [default: what fits, at most 300]"
    ),
]
Temperature = Annotated[
    float,
    typer.Option(metavar="X", help="0 always takes the likeliest word; 1 draws as it was trained."),
]
TopP = Annotated[
    float, typer.Option(metavar="P", help="Draw from the likeliest words that add up to P.")
]
TopK = Annotated[int, typer.Option(metavar="K", help="Draw from the K likeliest; 0 is off.")]
Penalty = Annotated[
    float,
    typer.Option("--repetition-penalty", metavar="X", help="Above 1, repeated words get rarer."),
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Makes a draw repeatable.")]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Text that ends the answer; may be given again."),
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Frames of a video.  [default: as the model was made]"),
]
NoSound = Annotated[bool, typer.Option("--no-sound", help="Leave all sound out.")]
IgnoreBadSound = Annotated[
    bool, typer.Option("--ignore-bad-sound", help="Go on without a sound that does not decode.")
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="Host (or HOST:PORT) of http(s) media; may be given again."),
]


def main(arguments: list[str] | None = None) -> None:
    """The entry point; `arguments` are those of the process unless given. Ends in SystemExit."""
    prepare_process()
    # Not `app(...)`, which puts a hook of its own in the place of `prepare_process`'s.
    typer.main.get_command(app)(args=arguments, prog_name="video-llama")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"video-llama {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[
        bool,
        typer.Option("--debug", help=f"Show tracebacks and warnings (also: {DEBUG_VARIABLE}=1)."),
    ] = False,
    version: Annotated[  # noqa: ARG001 (the callback prints it)
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Talk about a video, its sound, or a picture.

    \b
    Begin with:
      video-llama ask clip.mp4 "What do you see, and what do you hear?"
    """
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


# Arguments are explained in the text of a command, where an example can stand beside them.
Media = Annotated[list[str] | None, typer.Argument(metavar="MEDIA", hidden=True)]
PartFile = Annotated[str | None, typer.Option(hidden=True)]


@app.command()
def ask(
    *,
    media: Media = None,
    question: Annotated[str, typer.Argument(metavar="QUESTION", hidden=True)],
    model: Model = "nano",
    as_json: AsJson = False,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    frames: Frames = None,
    no_sound: NoSound = False,
    ignore_bad_sound: IgnoreBadSound = False,
    allow_host: AllowHost = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantization: Quantization = None,
    offline: Offline = False,
) -> None:
    """Ask one question about videos, pictures or sounds.

    MEDIA are files, http(s) addresses of allowed hosts, data: URLs, or "-" for the standard input.
    QUESTION comes last and stands in quotes. The answer goes to stdout, warnings to stderr.

    \b
    Example:
      video-llama ask dog.mp4 "What do you see, and what do you hear?"
      video-llama ask a.mp4 b.jpg "What do both show?" --json

    With --json: {"model", "question", "answer", "finish_reason", "tokens", "timings" in seconds,
    "media" with the streams that were used, "warnings"}; if it failed, {"error": {"type",
    "message"}} and exit status 1. Arguments that cannot be right are status 2, Ctrl-C is 130, and
    neither prints an object.
    """
    mistake = commands.argument_mistake(media or [], question)
    if mistake:
        raise typer.BadParameter(mistake)
    commands.run_ask(
        commands.ModelChoice(model, device, dtype, quantization, offline),
        media or [],
        question,
        reading=_reading(frames, no_sound, ignore_bad_sound, allow_host),
        options=_options(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed, stop),
        as_json=as_json,
    )


@app.command()
def chat(
    *,
    media: Media = None,
    model: Model = "nano",
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    frames: Frames = None,
    no_sound: NoSound = False,
    ignore_bad_sound: IgnoreBadSound = False,
    allow_host: AllowHost = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantization: Quantization = None,
    offline: Offline = False,
) -> None:
    """Talk about media, question by question.

    MEDIA are as in "ask" but for "-", and more can be added on the way. Every medium is looked at
    once; a later question is answered faster. Lines that begin with a slash are commands:
    /media PATH, /reset, /history, /help, /quit. Ctrl-C stops an answer. Questions can also come
    from a pipe.

    \b
    Example:
      video-llama chat dog.mp4
      printf 'What do you see?\\nWhat do you hear?\\n' | video-llama chat dog.mp4

    Questions are remembered in ~/.local/state/video-llama/history; VIDEO_LLAMA_HISTORY names
    another file, or none when it is empty.
    """
    if commands.STANDARD_INPUT in (media or []):
        raise typer.BadParameter('"-" is for "ask": here questions come from the standard input')
    commands.run_chat(
        commands.ModelChoice(model, device, dtype, quantization, offline),
        media or [],
        reading=_reading(frames, no_sound, ignore_bad_sound, allow_host),
        options=_options(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed, stop),
    )


@app.command()
def convert(
    *,
    places: Annotated[list[str], typer.Argument(metavar="[FOLDER] OUTPUT", hidden=True)],
    language_model: PartFile = None,
    eva: PartFile = None,
    blip2: PartFile = None,
    imagebind: PartFile = None,
    video_branch: PartFile = None,
    audio_branch: PartFile = None,
    projection: PartFile = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="'vicuna' or 'llama_2', when the files do not say."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="'keep', 'bf16', 'fp16' or 'fp32'.")
    ] = "keep",
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Leave the audio branch out.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Of the configuration; may be repeated."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model converted before.")
    ] = False,
    new_branches: Annotated[
        bool,
        typer.Option(
            "--new-branches", help="Branches that are not there begin anew, to be trained."
        ),
    ] = False,
    back: Annotated[
        bool, typer.Option("--back", help="The other way: FOLDER is a converted model.")
    ] = False,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Convert a published Video-LLaMA into a directory for this software.

    FOLDER holds the published files, under any names, or is a hub id; OUTPUT is made. Parts that
    lie elsewhere are given by options, and if all are, FOLDER is left out.

    \b
    Parts:
      --language-model  directory or hub id of Vicuna, LLaMA or LLaMA-2-chat
      --eva             vision encoder, eva_vit_g.pth
      --blip2           image Q-Former, blip2_pretrained_flant5xxl.pth
      --imagebind       imagebind_huge.pth
      --video-branch    the trained vision-language branch
      --audio-branch    the trained audio-language branch
      --projection      pretrained_minigpt4.pth (optional)

    \b
    Example:
      video-llama convert Video-LLaMA-2-7B-Finetuned models/video-llama-2-7b
      video-llama convert downloads models/mine --language-model vicuna-7b --template vicuna
      video-llama convert downloads models/start --new-branches --template llama_2
      video-llama convert --back models/mine published

    --set gives what weights do not tell of an unusual model, such as
    vision_config.num_attention_heads=16.
    """
    if len(places) > 2 or (back and len(places) != 2):
        raise typer.BadParameter("give a FOLDER and an OUTPUT")
    parts = {
        "language_model": language_model,
        "eva": eva,
        "blip2": blip2,
        "imagebind": imagebind,
        "video_branch": video_branch,
        "audio_branch": audio_branch,
        "projection": projection,
    }
    if back:
        others = {
            "--template": template,
            "--dtype": dtype != "keep",
            "--no-audio": no_audio,
            "--set": settings,
            "--overwrite": overwrite,
            "--new-branches": new_branches,
            **{f"--{name.replace('_', '-')}": place for name, place in parts.items()},
        }
        given = [name for name, value in others.items() if value]
        if given:
            raise typer.BadParameter(f"{given[0]} does nothing with --back; leave it out")
        commands.run_convert_back(places[0], Path(places[1]), offline=offline, as_json=as_json)
        return
    if len(places) == 1 and not any(parts.values()):
        raise typer.BadParameter("give a FOLDER and an OUTPUT, or the parts by options")
    if any("=" not in setting for setting in settings or []):
        raise typer.BadParameter("--set wants FIELD=VALUE")
    commands.run_convert(
        places[0] if len(places) == 2 else None,
        Path(places[-1]),
        parts=parts,
        template=template,
        dtype=dtype,
        audio=not no_audio,
        overrides=commands.parse_settings(settings or []),
        overwrite=overwrite,
        new_branches=new_branches,
        offline=offline,
        as_json=as_json,
    )


@app.command()
def verify(
    *,
    directory: Annotated[str, typer.Argument(metavar="DIR", hidden=True)],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every tensor; find values that are no numbers.")
    ] = False,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Say what a directory holds and what in it does not fit.

    DIR is a model's directory, a folder of published files, or a hub id. Exit status 1 when
    something is wrong.

    \b
    Example:
      video-llama verify models/video-llama-2-7b --deep
    """
    commands.run_verify(directory, deep=deep, offline=offline, as_json=as_json)


@app.command()
def world(
    *,
    output: Annotated[Path, typer.Argument(metavar="OUT", hidden=True)],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Files to write.")] = 100,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the first one.")] = 0,
    seconds: Annotated[float, typer.Option(metavar="X", help="Length of clips and sounds.")] = 4.0,
    fps: Annotated[int, typer.Option(min=1, max=120, metavar="N", help="Frames a second.")] = 12,
    as_json: AsJson = False,
) -> None:
    """Write clips of a made-up world whose facts are known.

    The folder OUT gets clips, pictures and sounds, and "world.jsonl": the facts of each, and
    questions with their answers in English and Chinese. The same numbers give the same files; a run
    that was broken off goes on.

    \b
    Example:
      video-llama world worlds/small --count 20 --seed 7
    """
    commands.run_world(output, count=count, seed=seed, seconds=seconds, fps=fps, as_json=as_json)


app.command()(cli_train.train)
app.command("eval")(cli_eval.evaluate)
app.command()(cli_serve.serve)


def _reading(
    frames: int | None, no_sound: bool, ignore_bad_sound: bool, allow_host: list[str] | None
) -> dict[str, Any]:
    """How media are read: fields of `MediaOptions`, and hosts for its policy."""
    return {
        "num_frames": frames,
        "with_sound": not no_sound,
        "on_bad_sound": "warn" if ignore_bad_sound else "error",
        "allowed_hosts": allow_host or [],
    }


def _options(
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    repetition_penalty: float,
    seed: int | None,
    stop: list[str] | None,
) -> dict[str, Any]:
    """How answers are chosen: fields of `GenerationOptions`."""
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": tuple(stop or ()),
    }
