"""Servers of this process: begun, ended, and begun again."""

import gc
import threading
import weakref

import pytest

from video_llama import VideoLlama
from video_llama.errors import BusyError, OptionError
from video_llama.server import run
from video_llama.server.run import Server, ServerPolicy, serve
from video_llama.server.serving import ServingPolicy
from video_llama.temporary_folder import TemporaryFolder

POLICY = ServerPolicy(serving=ServingPolicy(name="tiny"), decoders=1)


@pytest.fixture
def own(tiny_model_dir) -> VideoLlama:
    return VideoLlama.load(tiny_model_dir, device="cpu")


def test_conversations_go_on_when_a_server_has_ended(own, clip_path):
    chat = own.chat(clip_path)
    before = chat.ask("What?", max_new_tokens=4)
    for _ in range(2):
        server = Server(own, POLICY)
        assert own.engine is server.engine
        server.close()
        again = own.chat(clip_path).ask("What?", max_new_tokens=4)
        assert again == before
        assert own.engine is not server.engine


def test_the_memory_of_an_engine_goes_with_its_end(own, clip_path):
    server = Server(own, POLICY)
    own.chat(clip_path).ask("What?", max_new_tokens=4)
    engine = server.engine
    assert engine._cache.layers[0].numel() > 0
    server.close()
    assert sum(layer.numel() for layer in engine._cache.layers) == 0
    assert engine._kept.tokens == 0


def test_an_answer_that_a_server_cut_off_is_not_taken_for_whole(own, clip_path, monkeypatch):
    server = Server(own, POLICY)
    monkeypatch.setattr(VideoLlama, "stop_ids", frozenset())
    chat = own.chat(clip_path)
    pieces = chat.stream("What?", max_new_tokens=400)
    next(pieces)
    server.close()
    with pytest.raises(BusyError, match="before its answer was whole"):
        list(pieces)


def test_a_server_that_cannot_be_made_leaves_nothing(own, monkeypatch):
    made: list[weakref.ref] = []
    real = run.DecodingPool

    def kept(*given, **named):
        made.append(weakref.ref(pool := real(*given, **named)))
        return pool

    monkeypatch.setattr(run, "DecodingPool", kept)
    folders = []
    close = TemporaryFolder.close
    monkeypatch.setattr(
        TemporaryFolder, "close", lambda self: (folders.append(self.path), close(self))
    )
    with pytest.raises(OptionError, match="cache_bytes"):
        Server(own, ServerPolicy(serving=ServingPolicy(name="tiny"), cache_bytes=1))
    assert not made

    def fail(*_, **__):
        raise OptionError("it does not go together")

    monkeypatch.setattr(run, "make_app", fail)
    with pytest.raises(OptionError, match="go together"):
        Server(own, POLICY)
    gc.collect()
    pool = made[0]()
    assert pool is None or pool.process_ids == []
    assert len(folders) == 1
    assert not folders[0].exists()
    assert own.chat().ask("Who are you?", max_new_tokens=2) is not None


def test_a_server_is_served_once_and_by_the_main_thread(own):
    server = Server(own, POLICY)
    server.claim()
    with pytest.raises(OptionError, match="make a new one"):
        serve(server, "127.0.0.1", 0, print)
    errors: list[Exception] = []

    def elsewhere():
        try:
            serve(server, "127.0.0.1", 0, print)
        except OptionError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])
    assert server.engine.closing
