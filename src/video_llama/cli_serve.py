"""`video-llama serve`: an OpenAI-compatible server for a model."""

import ipaddress
import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from video_llama.errors import OptionError
from video_llama.terminal import loading, prepare_libraries, reporting, write

KEY_VARIABLE = "VIDEO_LLAMA_API_KEY"
SHORTEST_KEY = 8  # characters
MEGABYTE = 1 << 20
GIGABYTE = 1 << 30


def serve(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", hidden=True)] = "nano",
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the model in requests.  [default: its own]"),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help=f"Key that requests must bring; may be repeated. Or {KEY_VARIABLE}."
        ),
    ] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Let other machines in without a key.")
    ] = False,
    allow_folder: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder of media that file: addresses may name."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="Host (or HOST:PORT) of http(s) media; may be given again."
        ),
    ] = None,
    allow_private_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Likewise, in a private network."),
    ] = None,
    slots: Annotated[
        int, typer.Option(min=1, metavar="N", help="Answers written at the same time.")
    ] = 16,
    queue: Annotated[
        int, typer.Option(min=0, metavar="N", help="Requests that may wait beside them.")
    ] = 48,
    decoders: Annotated[
        int, typer.Option(min=1, metavar="N", help="Media decoded at the same time.")
    ] = 2,
    decoder_memory: Annotated[
        float, typer.Option(min=0.25, metavar="GB", help="Memory for each of them.")
    ] = 4.0,
    max_body: Annotated[
        int, typer.Option(min=1, metavar="MB", help="Largest request that is no upload.")
    ] = 64,
    max_upload: Annotated[
        int, typer.Option(min=1, metavar="MB", help="Largest upload, and video from elsewhere.")
    ] = 256,
    max_duration: Annotated[
        float, typer.Option(min=1, metavar="X", help="Longest video or file, in seconds.")
    ] = 3600.0,
    fetch_seconds: Annotated[
        float,
        typer.Option(min=1, metavar="X", help="Longest time to fetch a video; others have less."),
    ] = 30.0,
    request_seconds: Annotated[
        float, typer.Option(min=1, metavar="X", help="Longest time for an answer, its media too.")
    ] = 300.0,
    cache_memory: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="GB",
            help="For answers being written.  [default: 1; half of what is free on an accelerator]",
        ),
    ] = None,
    kept_memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="GB",
            help="For conversations that may go on.  [default: 0.5; a tenth, likewise]",
        ),
    ] = None,
    file_hours: Annotated[
        float, typer.Option(min=0.01, max=1e6, metavar="X", help="Uploaded files are kept so long.")
    ] = 24.0,
    feature_folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="What the encoders made of media is kept here, over restarts."
        ),
    ] = None,
    feature_disk: Annotated[
        float, typer.Option(min=0.01, metavar="GB", help="Largest size of that folder.")
    ] = 4.0,
    no_page: Annotated[bool, typer.Option("--no-page", help="The API alone.")] = False,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="'auto', 'cpu', 'cuda', 'cuda:1', ...")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="'auto', 'bf16', 'fp16' or 'fp32'.")
    ] = "auto",
    quantization: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="'int8': keep the language model's weights in 8 bits."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
) -> None:
    """Serve a model to any OpenAI client.

    MODEL is 'nano', a directory or a hub id. Clients use http://HOST:PORT/v1 with the paths
    chat/completions, models and files; beside it are /health, /ready, /metrics and /version. At
    http://HOST:PORT/ is a page to talk on, if gradio is installed: pip install 'video-llama[web]'.

    Media come in requests (data: URLs, base64) or are uploaded first. Addresses are fetched from
    allowed hosts only, files read from allowed folders only; at first neither is allowed.

    \b
    Example:
      video-llama serve
      video-llama serve models/mine --host 0.0.0.0 --api-key "$(cat key)" --allow-host example.org

    The server listens on this machine alone unless --host says otherwise, and then wants a key.
    Keys on a command line can be seen by others on the machine; those in VIDEO_LLAMA_API_KEY,
    separated by commas, cannot. SIGTERM ends it after the answers that run.
    """
    with reporting():
        keys = _keys(api_key)
        _require_key(host, keys, without_key)
        with_page = not no_page and find_spec("gradio") is not None
        from video_llama.server import forking

        forking.prepare()  # first: its imports take as long as ours
        prepare_libraries()
        with loading():
            from video_llama.chat import VideoLlama
            from video_llama.media.source import SourcePolicy
            from video_llama.server.files import StoragePolicy
            from video_llama.server.gate import GatePolicy, decoding_limits, fetching_seconds
            from video_llama.server.guard import GuardPolicy
            from video_llama.server.run import Server, ServerPolicy, default_name, open_features
            from video_llama.server.run import serve as run_server
            from video_llama.server.serving import ServingPolicy

        sources = SourcePolicy(
            allowed_hosts=frozenset(allow_host or ()),
            private_hosts=frozenset(allow_private_host or ()),
            max_download=max_upload * MEGABYTE,
        )
        policy = ServerPolicy(
            serving=ServingPolicy(
                name=name or default_name(model), places=slots + queue, seconds=request_seconds
            ),
            gate=GatePolicy(
                folders=tuple(allow_folder or ()),
                sources=sources,
                limits=decoding_limits(max_upload * MEGABYTE, max_duration),
                fetch_seconds=fetching_seconds(fetch_seconds),
            ),
            storage=StoragePolicy(
                lifetime=round(file_hours * 3600),
                file_bytes=max_upload * MEGABYTE,
                total_bytes=max(StoragePolicy.total_bytes, max_upload * MEGABYTE),
            ),
            guard=GuardPolicy(
                keys=keys,
                names=GuardPolicy().names | {host.lower()},
                body_bytes=max_body * MEGABYTE,
                upload_bytes=(max_upload + 1) * MEGABYTE,  # with the form around the file
                any_name=without_key,
            ),
            slots=slots,
            decoders=decoders,
            decoder_bytes=round(decoder_memory * GIGABYTE),
            cache_bytes=None if cache_memory is None else round(cache_memory * GIGABYTE),
            kept_bytes=None if kept_memory is None else round(kept_memory * GIGABYTE),
            page=with_page,
        )
        features = open_features(feature_folder, round(feature_disk * GIGABYTE))
        with loading():
            assistant = VideoLlama.load(
                model,
                device=device,
                dtype=dtype,
                quantization=quantization,
                offline=offline or None,
                features=features,
            )
            server = Server(assistant, policy)
        run_server(server, host, port, partial(_tell, with_page, no_page))


def _tell(with_page: bool, no_page: bool, address: str) -> None:
    page = f", and a page at {address}/" if with_page else ""
    write(f"serving at {address}/v1{page}; Ctrl-C ends it\n", sys.stderr)
    if not with_page and not no_page:
        write("for a page to talk on: pip install 'video-llama[web]'\n", sys.stderr)


def _keys(given: list[str] | None) -> tuple[str, ...]:
    # Taken out: processes that are started from here would inherit it.
    named = os.environ.pop(KEY_VARIABLE, "")
    if not all(key.strip() for key in given or []):
        raise OptionError("--api-key is empty; give a key, or leave it out")
    found = [key.strip() for key in [*(given or []), *named.split(",")]]
    keys = tuple(dict.fromkeys(key for key in found if key))
    if named and not keys:
        raise OptionError(f"{KEY_VARIABLE} holds no key; give one, or take the variable away")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise OptionError("a key has letters, digits and signs of ASCII only: it goes in a header")
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise OptionError(f"a key has at least {SHORTEST_KEY} characters; make a longer one")
    return keys


def _require_key(host: str, keys: tuple[str, ...], without_key: bool) -> None:
    if not keys and not without_key and not is_loopback(host):
        raise OptionError(
            f"{host} lets other machines in: give --api-key, or --without-key if that is wanted"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
