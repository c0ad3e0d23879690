"""The thread that runs the model for everyone who asks.

One step: end what is to end, run a chunk of a prompt that waits, then one token of every answer
that runs. What is asked and called off meanwhile is looked at before the next step.

Legend: L tokens of a prompt, D width of the language model, V vocabulary.
"""

import atexit
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from transformers import PreTrainedModel

from video_llama.engine.cache import RowCache
from video_llama.engine.fused import FusedRunner, can_fuse, computing_type
from video_llama.engine.handle import Handle
from video_llama.engine.job import Job, Texts
from video_llama.engine.own_thread import in_own_thread
from video_llama.engine.prefix import PrefixStore, shared_length
from video_llama.engine.request import EndReason, Request
from video_llama.engine.runner import TransformersRunner, cache_shape
from video_llama.engine.sampler import Sampler, Sampling
from video_llama.engine.scheduler import Scheduler
from video_llama.errors import BusyError, OptionError
from video_llama.generation import AnswerText, IdsToText

CACHE_BYTES = 1 << 30  # of rows that run, when nobody says how much; one full row fits always
KEPT_BYTES = 1 << 29  # of sequences that ran
LONGEST = 4096  # tokens of a sequence, for a model without a limit of its own
LINGER = 2.0  # seconds the thread waits for more work; an idle engine can be dropped
_STARTED: "weakref.WeakKeyDictionary[threading.Thread, weakref.ref[Engine]]"
_STARTED = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class EngineMetrics:
    """What the engine does now, and has done since it began.

    Attributes:
        running, waiting: requests; one whose prompt is being run counts as running.
        slots: requests that can run together.
        cache_tokens: tokens of the rows that run, now; cache_limit: at most.
        kept_tokens: tokens of sequences that ran, kept for prompts that begin alike.
        prompt_tokens, reused_tokens: of requests that were given a row; how many were not run.
        generated_tokens: chosen.
        steps: passes with one token of every answer.
        preemptions: rows that were taken back.
        finished: requests by how they ended; "error" for those that failed.
    """

    running: int
    waiting: int
    slots: int
    cache_tokens: int
    cache_limit: int
    kept_tokens: int
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    steps: int
    preemptions: int
    finished: dict[str, int]


class Engine:
    """Answers many requests at once with one language model.

    Args:
        model: a causal language model of transformers, in evaluation mode. Its weights must not
            change: parts of them are copied.
        decode: ids to text, as a tokenizer does.
        stop_texts: texts that end every answer.
        labels: texts that are dropped from the beginning of an answer.
        slots: answers that run together.
        max_waiting: requests that may wait beyond those that run.
        cache_tokens: tokens of all rows together, at least one row of full length; None: what is
            in `cache_bytes`.
        kept_tokens: tokens of sequences that ran, 0 for none; None: what is in `kept_bytes`.
        cache_bytes: None: a gigabyte, or what one row of full length needs.
        kept_bytes: None: half a gigabyte.
        prefill_chunk: tokens of prompts that are run in one step, beside the answers.
        turn_tokens: tokens that an answer may have before it makes room for one that waits.
        longest: tokens of prompt and answer together; None: what the model allows.
        fuse: False runs the model's own forward even where this project has a faster one.

    Raises:
        OptionError: a setting that is not accepted, or a model the engine cannot run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decode: Callable[[list[int]], str],
        *,
        stop_texts: Sequence[str] = (),
        labels: Sequence[str] = (),
        slots: int = 16,
        max_waiting: int = 256,
        cache_tokens: int | None = None,
        kept_tokens: int | None = None,
        cache_bytes: int | None = None,
        kept_bytes: int | None = None,
        prefill_chunk: int = 256,
        turn_tokens: int = 512,
        longest: int | None = None,
        fuse: bool = True,
    ) -> None:
        for name, value, least in (
            ("slots", slots, 1),
            ("max_waiting", max_waiting, 0),
            ("prefill_chunk", prefill_chunk, 1),
            ("turn_tokens", turn_tokens, 1),
            ("longest", longest, 1),
        ):
            if value is not None and value < least:
                raise OptionError(f"{name} must be {least} or more, not {value}")
        shape = in_own_thread(lambda: cache_shape(model))
        fused = fuse and can_fuse(model)
        if fused:
            shape = replace(shape, dtype=computing_type(model))
        limit = getattr(model.config, "max_position_embeddings", None) or LONGEST
        longest = limit if longest is None else min(longest, limit)
        per_token = shape.bytes_per_token
        if cache_bytes is not None and cache_bytes < longest * per_token:
            raise OptionError(
                f"cache_bytes must be {longest * per_token:,} or more, one sequence of full length "
                f"({longest} tokens), not {cache_bytes:,}"
            )
        budget = cache_tokens
        if budget is None:
            most = (CACHE_BYTES if cache_bytes is None else cache_bytes) // per_token
            budget = max(longest, min(slots * longest, most))
        if kept_tokens is None:
            kept_tokens = (KEPT_BYTES if kept_bytes is None else kept_bytes) // per_token
        if budget < longest:
            raise OptionError(
                f"cache_tokens must be {longest} or more, one sequence of full length, not {budget}"
            )
        self.longest = longest
        self.max_waiting = max_waiting
        self.prefill_chunk = prefill_chunk
        self.stop_texts, self.labels = tuple(stop_texts), tuple(labels)
        self._model = model
        self._texts = Texts(decode)
        self._scheduler = Scheduler(slots, budget, longest, turn_tokens)
        self._cache = RowCache(shape)
        self._kept = PrefixStore(kept_tokens)
        self._runner: FusedRunner | TransformersRunner = (
            in_own_thread(lambda: FusedRunner(model, self._cache, longest))
            if fused
            else TransformersRunner(model, self._cache)
        )
        self._sampler = Sampler(self._texts.of_one)
        self._counts: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._new: list[Job] = []
        self._open = 0  # requests that have not ended
        self._forget = False
        self._closing = False
        self._call_off = False
        self._thread: threading.Thread | None = None

    # What others call

    def submit(self, request: Request) -> Handle:
        """Take a request; its answer comes through the handle.

        Raises:
            BusyError: as many requests wait as may wait, or the engine is shutting down.
            OptionError: prompt and answer are longer than a sequence may be.
        """
        length = len(request.keys) + request.max_new_tokens
        if length > self.longest:
            raise OptionError(
                f"the prompt and its answer have {length} tokens; {self.longest} fit together"
            )
        job = self._job(request)
        with self._changed:
            if self._closing:
                raise BusyError("the engine is shutting down and takes no more requests")
            if self._open >= self._scheduler.slots + self.max_waiting:
                raise BusyError(
                    f"{self._open} requests are being answered or wait; ask again later"
                )
            self._open += 1
            self._new.append(job)
            # In a process that was forked just after an answer, the thread is none any more.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
                _STARTED[self._thread] = weakref.ref(self)
            self._changed.notify_all()
        return job.handle

    @property
    def closing(self) -> bool:
        """Whether it takes no more requests: `shutdown` was called."""
        return self._closing

    def metrics(self) -> EngineMetrics:
        """Numbers of now; see `EngineMetrics`."""
        scheduler = self._scheduler
        counts = self._counts
        running = len(scheduler.running) + (scheduler.filling is not None)
        return EngineMetrics(
            running=running,
            waiting=max(self._open - running, 0),
            slots=scheduler.slots,
            cache_tokens=sum(task.cached for task in tuple(scheduler.running)),
            cache_limit=scheduler.budget,
            kept_tokens=self._kept.tokens,
            prompt_tokens=counts["prompt"],
            reused_tokens=counts["reused"],
            generated_tokens=counts["generated"],
            steps=counts["steps"],
            preemptions=counts["preemptions"],
            finished=dict(self._finished),
        )

    def forget(self) -> None:
        """Drop what is kept of sequences that ran, before the next request is looked at."""
        with self._changed:
            self._forget = True

    def shutdown(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more requests; end when those there are have ended, or call them off.

        Returns whether all have ended within `timeout` seconds.
        """
        with self._changed:
            self._closing = True
            self._call_off = not drain
            self._changed.notify_all()
            ended = self._changed.wait_for(lambda: self._open == 0, timeout)
            if self._thread is None:
                self._release()
            return ended

    # The thread

    @torch.inference_mode()
    def _run(self) -> None:
        while self._take_new():
            try:
                self._step()
            except BaseException as error:  # noqa: BLE001 - given to those whose answers it ends
                self._fail_all(error)

    def _take_new(self) -> bool:
        """Wait for something to do; False when nothing came for a while."""
        with self._changed:
            if not self._scheduler.busy and not self._new:
                self._changed.wait_for(lambda: self._new or self._closing, LINGER)
                if not self._new:
                    self._thread = None
                    if self._closing:
                        self._release()
                    return False
            self._scheduler.waiting.extend(self._new)
            self._new = []
            if self._forget:
                self._kept.clear()
                self._forget = False
            if self._call_off:
                for task in self._scheduler.all():
                    task.cancelled = True
        return True

    def _step(self) -> None:
        scheduler = self._scheduler
        now = time.monotonic()
        for job in cast("list[Job]", scheduler.over(now)):
            self._end(job, "cancelled" if job.cancelled else "deadline")
        budget = self.prefill_chunk
        while budget > 0 and (job := self._next_to_fill()) is not None:
            budget -= self._fill(job, budget)
        self._grow()
        if scheduler.running:
            self._decode()

    def _next_to_fill(self) -> Job | None:
        scheduler = self._scheduler
        if scheduler.filling is not None:
            return cast("Job", scheduler.filling)
        job = cast("Job | None", scheduler.admit())
        if job is None and (rested := scheduler.had_its_turn()) is not None:
            self._preempt(cast("Job", rested), front=False)
            job = cast("Job | None", scheduler.admit())
        if job is not None:
            self._resize()
            self._begin(job)
        return job

    def _begin(self, job: Job) -> None:
        """Fill a new row with what is known already of the sequence."""
        if job.queued is None:
            job.queued = time.monotonic()
            self._counts["prompt"] += job.prompt_tokens
        assert job.row is not None
        # The last token runs in any case: its logits choose the next one.
        keys = tuple(job.keys[:-1])
        kept, length = self._kept.find(keys)
        for other in cast("list[Job]", self._scheduler.running):
            shared = shared_length(tuple(other.keys[: other.cached]), keys)
            if shared > length:
                kept, length = None, shared
                assert other.row is not None
                self._cache.move(other.row, job.row, shared)
        if kept is not None:
            self._cache.write(job.row, kept.snapshot, length)
            self._kept.used(kept)
        job.cached = length
        if not job.generated:
            job.handle.reused_tokens = length
            self._counts["reused"] += length

    def _fill(self, job: Job, budget: int) -> int:
        """Run a chunk of a prompt, or of what a preempted answer had; how many tokens."""
        assert job.row is not None
        count = min(budget, job.length - job.cached)
        try:
            embeddings = self._embed(job, job.cached, job.cached + count)
        except Exception as error:  # noqa: BLE001 - the request's own, and given to its asker
            self._end(job, error)
            return count
        logits = self._runner.prefill(job.row, job.cached, embeddings)
        job.cached += count
        if job.cached == job.length:
            job.embeddings = None
            self._scheduler.filled()
            self._choose(logits, [job])
        return count

    def _embed(self, job: Job, start: int, end: int) -> torch.Tensor:
        """Embeddings (end - start, D) of a sequence's tokens."""
        parts = []
        if start < job.prompt_tokens:
            if job.embeddings is None:
                given = job.request.embeddings
                job.embeddings = given if isinstance(given, torch.Tensor) else given()
            parts.append(job.embeddings[start : min(end, job.prompt_tokens)])
        if end > job.prompt_tokens:
            first = max(start, job.prompt_tokens) - job.prompt_tokens
            ids = job.sampling.ids[first : end - job.prompt_tokens]
            device = self._cache.shape.device
            parts.append(self._model.get_input_embeddings()(torch.tensor(ids, device=device)))
        return torch.cat(parts)

    def _release(self) -> None:
        """Give back the memory, whoever still holds the engine: it has ended."""
        self._kept.clear()
        self._cache.resize(0, 0, live=0)
        self._runner = TransformersRunner(self._model, self._cache)  # without copied weights

    def _grow(self) -> None:
        """Make room for one more token of everyone."""
        for job in cast("list[Job]", self._scheduler.grow()):
            self._preempt(job, front=True)
        self._resize()

    def _resize(self) -> None:
        scheduler = self._scheduler
        live = len(scheduler.running) + (scheduler.filling is not None)
        if scheduler.capacity:
            self._cache.resize(scheduler.rows, scheduler.capacity, min(live, self._cache.rows))

    def _decode(self) -> None:
        jobs = cast("list[Job]", self._scheduler.running)
        logits = self._runner.decode(
            [job.sampling.ids[-1] for job in jobs], [job.cached for job in jobs]
        )
        for job in jobs:
            job.cached += 1
        self._counts["steps"] += 1
        self._choose(logits, jobs.copy())

    def _choose(self, logits: torch.Tensor, jobs: list[Job]) -> None:
        """Logits (B, V) of jobs -> their next ids, told to those who wait for them."""
        samplings = [job.sampling for job in jobs]
        ids = self._sampler.choose(logits, samplings)
        logprobs = self._sampler.logprobs(logits, samplings)
        self._counts["generated"] += len(ids)
        for place, (job, token) in enumerate(zip(jobs, ids, strict=True)):
            try:
                reason = job.take(token, logprobs.get(place))
            except Exception as error:  # noqa: BLE001 - of its own text, and given to its asker
                reason = error
            if reason is not None:
                self._end(job, reason)

    # Ends

    def _preempt(self, job: Job, *, front: bool) -> None:
        self._save(job)
        self._counts["preemptions"] += 1
        self._move(self._scheduler.put_back(job, front=front))
        job.cached, job.embeddings = 0, None

    def _end(self, job: Job, reason: EndReason | Exception) -> None:
        if not isinstance(reason, Exception):
            self._save(job)
        self._move(self._scheduler.leave(job))
        self._tell_end(job, reason)

    def _tell_end(self, job: Job, reason: EndReason | BaseException) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()
        if not isinstance(reason, BaseException):
            try:
                job.finish(reason)
            except Exception as error:  # noqa: BLE001 - of its own text, and given to its asker
                reason = error
            else:
                self._finished[reason] += 1
                return
        self._finished["error"] += 1
        job.fail(reason)

    def _save(self, job: Job) -> None:
        """Keep what a row holds, for this one or for another that begins alike."""
        if job.row is not None and self._kept.wants(keys := tuple(job.keys[: job.cached])):
            self._kept.put(keys, self._cache.read(job.row, job.cached))

    def _move(self, moves: Sequence[tuple[int, int]]) -> None:
        for source, target in moves:
            task = (*self._scheduler.running, self._scheduler.filling)[target]
            assert task is not None
            self._cache.move(source, target, task.cached)

    def _fail_all(self, error: BaseException) -> None:
        """The model failed: nobody's row can be trusted."""
        for job in cast("list[Job]", list(self._scheduler.all())):
            self._scheduler.leave(job)
            self._tell_end(job, error)

    # Helpers

    def _job(self, request: Request) -> Job:
        stops = [*self.stop_texts, *request.options.stop]
        job = Job(
            prompt_tokens=len(request.keys),
            max_new_tokens=request.max_new_tokens,
            deadline=request.deadline,
            request=request,
            handle=Handle(lambda: self._cancel(job)),
            sampling=Sampling(request.options, request.logprobs),
            to_text=IdsToText(self._texts.of),
            clean=AnswerText(stops, self.labels),
            keys=list(request.keys),
        )
        return job

    def _cancel(self, job: Job) -> None:
        with self._changed:
            job.cancelled = True
            self._changed.notify_all()


@atexit.register
def _end_threads() -> None:
    """A thread that Python stops at its own end, within a step, takes the process down with it."""
    for thread, started in tuple(_STARTED.items()):
        engine = started()
        if engine is not None:
            engine.shutdown(drain=False)
        thread.join()
