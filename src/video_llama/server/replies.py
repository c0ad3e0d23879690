"""Pieces of an answer as OpenAI's completions, and as the chunks of a stream."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from video_llama.engine.request import EndReason, Finished, Piece, TokenLogprob, Usage
from video_llama.generation import REPLACEMENT
from video_llama.server import protocol
from video_llama.server.protocol import (
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Delta,
    Logprobs,
    TokenLogprobs,
    TopLogprob,
)
from video_llama.server.refusal import Refusal
from video_llama.server.serving import Reply

DONE = b"data: [DONE]\n\n"


async def completion(reply: Reply, model: str, *, logprobs: bool) -> ChatCompletion:
    """The whole answer.

    Raises:
        Refusal: the engine failed on the way.
    """
    texts = ["" for _ in reply.handles]
    tokens: list[list[TokenLogprob]] = [[] for _ in reply.handles]
    ends: dict[int, Finished] = {}
    async for number, event in reply.events():
        if isinstance(event, Piece):
            texts[number] += event.text
            tokens[number] += event.logprobs
        else:
            ends[number] = event
    return ChatCompletion(
        id=reply.id,
        created=reply.created,
        model=model,
        choices=[
            Choice(
                index=number,
                message=protocol.Answer(content=text),
                logprobs=_logprobs(tokens[number]) if logprobs else None,
                finish_reason=_reason(ends[number].reason),
            )
            for number, text in enumerate(texts)
        ],
        usage=_usage([end.usage for end in ends.values()]),
        warnings=list(reply.warnings),
    )


async def chunks(
    reply: Reply, model: str, *, logprobs: bool, with_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as server-sent events; an error on the way is one, and then it ends."""

    def event(choices: list[ChunkChoice], **more: Any) -> bytes:
        chunk = ChatChunk(id=reply.id, created=reply.created, model=model, choices=choices, **more)
        fields = chunk.model_dump()
        for choice in fields["choices"]:
            choice["delta"] = {k: v for k, v in choice["delta"].items() if v is not None}
        if fields["warnings"] is None:
            del fields["warnings"]
        if not with_usage:
            del fields["usage"]
        return _data(fields)

    usages = []
    for number in range(len(reply.handles)):
        first = Delta(role="assistant", content="")
        warnings = list(reply.warnings) or None
        yield event([ChunkChoice(index=number, delta=first)], warnings=warnings)
    try:
        async for number, piece in reply.events():
            choice = ChunkChoice(index=number, delta=Delta())
            if isinstance(piece, Finished):
                usages.append(piece.usage)
                choice.finish_reason = _reason(piece.reason)
            else:
                choice.delta.content = piece.text
                choice.logprobs = _logprobs(piece.logprobs) if logprobs else None
            yield event([choice])
    except Refusal as refusal:
        yield _data(refusal.body)
        return
    if with_usage:
        yield event([], usage=_usage(usages))
    yield DONE


def _data(fields: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(fields, ensure_ascii=False)}\n\n".encode()


def _reason(reason: EndReason) -> Literal["stop", "length"]:
    """An answer whose time was over is cut short, as one whose tokens were used up."""
    return "stop" if reason == "stop" else "length"


def _usage(usages: Sequence[Usage]) -> protocol.Usage:
    """Tokens of all choices; their one prompt counts once."""
    prompt = usages[0].prompt_tokens
    answers = sum(usage.completion_tokens for usage in usages)
    reused = min(usage.reused_tokens for usage in usages)
    return protocol.Usage(
        prompt_tokens=prompt,
        completion_tokens=answers,
        total_tokens=prompt + answers,
        prompt_tokens_details=protocol.CachedTokens(cached_tokens=reused),
    )


def _logprobs(tokens: Sequence[TokenLogprob]) -> Logprobs:
    return Logprobs(
        content=[
            TokenLogprobs(
                token=token.text,
                logprob=token.logprob,
                bytes=_bytes(token.text),
                top_logprobs=[
                    TopLogprob(token=other.text, logprob=other.logprob, bytes=_bytes(other.text))
                    for other in token.top
                ],
            )
            for token in tokens
        ]
    )


def _bytes(text: str) -> list[int] | None:
    """What a token stands for, as far as its text tells."""
    return None if REPLACEMENT in text else list(text.encode())
