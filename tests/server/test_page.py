"""The page in a browser: what a person does there, and what must not happen."""

import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from video_llama.server.guard import GuardPolicy

gr = pytest.importorskip("gradio", reason="the page needs gradio: pip install 'video-llama[web]'")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
)
WAIT = 60_000  # ms
KEY = "a-key-of-the-page"
SESSION = "test-session"


@pytest.fixture(scope="module")
def site(start):
    return start(page=True)


@pytest.fixture(autouse=True)
def _uploads_of_the_site(site, monkeypatch) -> None:
    """Gradio takes files from one folder in a process: that of the page it mounted last."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ["GRADIO_TEMP_DIR"])


@pytest.fixture(scope="module")
def driver() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(driver) -> Iterator[object]:
    opened = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser_with_devices(driver) -> Iterator[object]:
    """Chromium with a camera that shows a test picture and a microphone that beeps."""
    devices = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    opened = driver.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *devices])
    yield opened
    opened.close()


class Visitor:
    """A person at the page; whatever the browser asked for and complained of is kept."""

    def __init__(self, browser, url: str, language: str = "en-US") -> None:
        self.context = browser.new_context(locale=language)
        self.context.set_default_timeout(WAIT)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.url = url

    def _listen(self, message) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def open(self) -> "Visitor":
        self.page.goto(self.url, timeout=WAIT)
        return self.ready()

    def ready(self) -> "Visitor":
        self.page.locator("#question textarea").wait_for()
        return self

    def ask(self, question: str, *files: Path) -> None:
        if files:
            chosen = [str(file) for file in files]
            self.page.locator("#question input[type=file]").set_input_files(chosen)
            thumbnails = self.page.locator("#question .thumbnail-item")
            expect(thumbnails).to_have_count(len(files), timeout=WAIT)
        self.page.locator("#question textarea").fill(question)
        self.page.locator("#question [data-testid=submit-button]").click()

    def done(self) -> None:
        """Wait until an answer is there."""
        expect(self.page.locator("#stop")).to_be_disabled(timeout=WAIT)
        expect(self.page.locator("#retry")).to_be_enabled(timeout=WAIT)

    @property
    def answers(self):
        return self.page.locator("#conversation .bot-row")

    def asked_elsewhere(self) -> list[str]:
        """Requests to anything but the server."""
        ours = (f"{self.url}/", "data:", f"blob:{self.url}")
        return [url for url in self.requests if not url.startswith(ours)]


@contextlib.contextmanager
def visiting(browser, permissions: tuple[str, ...] = ()) -> Iterator[object]:
    """`visit(url, language)`, whose visitors leave at the end."""
    visitors: list[Visitor] = []

    def begin(url: str, language: str = "en-US") -> Visitor:
        visitors.append(Visitor(browser, url, language))
        visitors[-1].context.grant_permissions(permissions)
        return visitors[-1]

    yield begin
    for visitor in visitors:
        visitor.context.close()


@pytest.fixture
def visit(browser) -> Iterator[object]:
    """`visit(url, language)` opens the page as somebody new."""
    with visiting(browser) as begin:
        yield begin


@pytest.fixture
def visit_with_devices(browser_with_devices) -> Iterator[object]:
    """The same with a camera and a microphone, which the person lets the page use."""
    with visiting(browser_with_devices, ("camera", "microphone")) as begin:
        yield begin


@needs_browser
def test_a_conversation(site, visit, clip_path, tmp_path):
    visitor = visit(site.url).open()
    page, answers = visitor.page, visitor.answers

    visitor.ask("What do you <b>see</b> & hear?", clip_path)
    expect(answers).to_have_count(1, timeout=WAIT)
    seen = answers.first.locator(".seen")
    expect(seen).to_contain_text("picture: used · sound: used · frames: 4", timeout=WAIT)
    expect(seen.locator(".frames img")).to_have_count(4)
    expect(seen.locator(".frames figcaption").last).to_contain_text(re.compile(r"^0\.\d s$"))
    expect(seen.locator(".mel img")).to_have_count(1)
    assert seen.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    visitor.done()
    question = page.locator("#conversation .user-row")
    expect(question.first).to_contain_text("<b>see</b> & hear?")
    expect(page.locator("#conversation .user-row video")).to_have_count(1)

    visitor.ask("And then?")
    expect(answers).to_have_count(2, timeout=WAIT)
    expect(answers.last.locator(".seen")).to_contain_text("as above", timeout=WAIT)
    visitor.done()

    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video, whatever its name says" * 20)
    visitor.ask("And this?", bad)
    expect(answers.last).to_contain_text("This did not work", timeout=WAIT)
    visitor.done()
    assert str(tmp_path) not in answers.last.inner_text()

    visitor.ask("Still there?")  # a bad file does not spoil what follows
    expect(answers).to_have_count(4, timeout=WAIT)
    visitor.done()
    expect(answers.last).not_to_contain_text("did not work")
    assert not visitor.asked_elsewhere()
    assert not visitor.complaints
    assert site.open_requests() == 0

    page.locator("#clear").click()
    expect(answers).to_have_count(0, timeout=WAIT)
    expect(page.locator("#retry")).to_be_disabled()


def ask_and_hold(site, visit, monkeypatch):
    """Someone who has asked, and what lets tokens of the answer come."""
    visitor = visit(site.url).open()
    let = site.hold(monkeypatch)
    visitor.ask("What?")
    expect(visitor.page.locator("#stop")).to_be_enabled(timeout=WAIT)
    return visitor, let


@needs_browser
def test_an_answer_comes_bit_by_bit_and_can_be_stopped(site, visit, monkeypatch, eventually):
    visitor, let = ask_and_hold(site, visit, monkeypatch)
    expect(visitor.answers).to_have_count(1, timeout=WAIT)
    for _ in range(4):
        before = visitor.answers.last.text_content()
        # Some tokens show nothing by themselves: the bytes of a character that is not whole.
        eventually(lambda b=before: let(2) or visitor.answers.last.text_content() != b, seconds=30)
    visitor.page.locator("#stop").click()
    expect(visitor.answers.last).to_contain_text("(stopped)", timeout=WAIT)
    let(1)  # it is called off between two tokens
    eventually(lambda: site.open_requests() == 0 and site.running() == 0)  # its place is free
    monkeypatch.undo()
    visitor.page.locator("#retry").click()
    expect(visitor.answers.last).not_to_contain_text("(stopped)", timeout=WAIT)
    visitor.done()
    expect(visitor.answers).to_have_count(1)


@needs_browser
def test_a_sample_ends_what_is_being_answered(site, visit, monkeypatch, eventually):
    visitor, let = ask_and_hold(site, visit, monkeypatch)
    eventually(lambda: site.running() == 1)
    visitor.page.locator("#samples button").last.click()
    question = visitor.page.locator("#conversation .user-row")
    expect(question.last).to_contain_text("What is in the picture?", timeout=WAIT)
    # It is called off between two tokens, and far from its last one.
    eventually(lambda: let(1) or site.running() <= 1, seconds=3)
    monkeypatch.undo()
    let(30)
    visitor.done()
    expect(visitor.answers).to_have_count(1)
    expect(visitor.answers.last.locator(".seen")).to_contain_text("house_and_tree.png")
    eventually(lambda: site.open_requests() == 0)
    assert not visitor.complaints


@needs_browser
def test_the_language_is_the_browsers_and_can_be_changed(site, visit, tmp_path):
    visitor = visit(site.url, "zh-CN").open()
    page = visitor.page
    expect(page.locator("#stop")).to_have_text("停止", timeout=WAIT)
    page.locator("#language").get_by_text("Русский").click()
    expect(page.locator("#stop")).to_have_text("Стоп", timeout=WAIT)
    expect(page.locator("#question textarea")).to_have_attribute("placeholder", "Вопрос о файлах")
    visitor.page.locator("#samples button").last.click()
    expect(visitor.answers.last.locator(".seen")).to_contain_text("изображение", timeout=WAIT)
    visitor.done()
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video, whatever its name says" * 20)
    visitor.ask("А это?", bad)
    visitor.done()
    expect(visitor.answers.last).to_contain_text("Не получилось: такие файлы здесь не читаются")
    assert not visitor.asked_elsewhere()


@needs_browser
def test_who_asks_at_once_has_an_answer(site, visit):
    visitor = visit(site.url, "zh-CN").open()
    visitor.ask("What?")
    expect(visitor.answers).to_have_count(1, timeout=WAIT)
    visitor.done()
    expect(visitor.page.locator("#stop")).to_have_text("停止")
    # An event beside it, while gradio is loading, is what an answer may be lost by.
    assert sum("/queue/join" in url for url in visitor.requests) == 1


@needs_browser
def test_a_person_with_a_key(start, visit):
    site = start(guard=GuardPolicy(keys=(KEY,)), page=True)
    visitor = visit(site.url)
    page = visitor.page
    page.goto(site.url, timeout=WAIT)
    page.locator("#key").fill("not the key")
    page.locator("button").click()
    expect(page.locator("p")).to_have_text("This is not a key of this server.")
    page.locator("#key").fill(KEY)
    page.locator("button").click()
    visitor.ready().ask("What?")
    expect(visitor.answers).to_have_count(1, timeout=WAIT)
    visitor.done()
    assert not visitor.asked_elsewhere()


@needs_browser
def test_what_the_camera_records(site, visit_with_devices):
    visitor = visit_with_devices(site.url).open()
    page = visitor.page
    thumbnails = page.locator("#question .thumbnail-item")

    page.locator("#camera button").first.click()
    page.locator("#camera [title='grant webcam access'] button").click()
    record = page.locator("#camera button[aria-label='start recording']")
    playing = "() => document.querySelector('#camera video').currentTime > 0.5"
    page.wait_for_function(playing)  # a camera that has shown nothing yet records an empty file
    record.click()
    expect(record).to_contain_text("Stop", timeout=WAIT)
    page.wait_for_timeout(4000)
    record.click()
    expect(page.locator("#camera [aria-label='Clear']")).to_be_visible(timeout=WAIT)
    page.locator("#take").click()
    expect(thumbnails).to_have_count(1, timeout=WAIT)
    visitor.ask("What do you see and hear?")
    expect(visitor.answers).to_have_count(1, timeout=WAIT)
    expect(page.locator("#stop")).to_be_disabled(timeout=WAIT)
    if "the file is empty" in visitor.answers.last.inner_text():
        pytest.skip("the browser recorded nothing: this machine is too busy for its test camera")
    visitor.done()
    seen = visitor.answers.last.locator(".seen")
    expect(seen).to_contain_text("picture: used · sound: used", timeout=WAIT)
    assert not visitor.asked_elsewhere()


@needs_browser
def test_what_the_microphone_records(site, visit_with_devices):
    visitor = visit_with_devices(site.url).open()
    page = visitor.page
    thumbnails = page.locator("#question .thumbnail-item")

    page.locator("#question [data-testid='microphone-button']").click()
    start = page.locator("#question [aria-label='Start recording']")
    stop = page.locator("#question [aria-label='Stop recording']")
    recording = 0  # half seconds; the button may come anew when the microphones have been counted
    for _ in range(120):
        if stop.is_visible():
            recording += 1
        else:
            recording = 0
            if start.is_visible():
                start.click()
        if recording == 4:
            break
        page.wait_for_timeout(500)
    stop.click()
    page.locator("#question [aria-label='Attach audio']").click()
    expect(thumbnails).to_have_count(1, timeout=WAIT)
    visitor.ask("What do you hear?")
    expect(visitor.answers).to_have_count(1, timeout=WAIT)
    expect(visitor.answers.last.locator(".seen")).to_contain_text("sound: used", timeout=WAIT)
    visitor.done()
    assert not visitor.asked_elsewhere()


# Without a browser


def test_what_gradio_brings_besides_is_not_there(site):
    with site.http() as http:
        for path in (
            "/gradio_api/proxy=https://example.org",
            "/gradio_api/runs",
            "/gradio_api/openapi.json",
            "/gradio_api/run-history/buckets",
            "/gradio_api/deep_link",
            "/gradio_api/call/ask/1",
            "/monitoring",
            "/login_check",
            "/docs",
            "/nothing",
        ):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "bad_request")
        for path in (
            "/gradio_api/run/ask",
            "/gradio_api/vibe-edit",
            "/gradio_api/process_recording",
        ):
            assert http.post(path, json={}).status_code == 404
        assert http.delete("/version").status_code == 405  # the API's own answers stay
        assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
        assert http.get("/", params={"deep_link": "../../etc"}).status_code == 200


def call(http, name: str, data: list) -> list[dict]:
    """What the page's script would be told when it calls one of the page's functions."""
    dependencies = http.get("/config").json()["dependencies"]
    number = next(one["id"] for one in dependencies if one["api_name"] == name)
    body = {"fn_index": number, "data": data, "session_hash": SESSION}
    assert http.post("/gradio_api/queue/join", json=body).status_code == 200
    events = []
    where = {"session_hash": SESSION}
    with http.stream("GET", "/gradio_api/queue/data", params=where) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                events.append(json.loads(line.removeprefix("data:")))
                if events[-1]["msg"] in ("process_completed", "close_stream"):
                    break
    return events


@pytest.mark.parametrize("place", ["local", "address", "url"])
def test_only_files_that_were_uploaded_are_taken(site, tmp_path, monkeypatch, place):
    """Gradio, mounted, would copy any file of the machine, and fetch any address."""
    import gradio.processing_utils as gradio_files

    secret = tmp_path / "secret.png"
    secret.write_bytes(b"the secret")
    fetched = []

    async def fetch(address: str, **_: object) -> str:
        fetched.append(address)
        return str(secret)

    monkeypatch.setattr(gradio_files, "async_ssrf_protected_download", fetch)
    address = "https://example.org/a.png"
    file = {
        "local": {"path": str(secret)},
        "address": {"path": address},
        "url": {"path": str(secret), "url": address},
    }[place]
    file = {**file, "meta": {"_type": "gradio.FileData"}}
    asked = {"text": "What?", "files": [file]}
    with site.http() as http:
        end = call(http, "_ask", [asked, None, "en", 0, 8, 4, True])[-1]
        assert end["msg"] == "process_completed"
        assert not end["success"]
        assert not fetched
        told = json.dumps(end)
        assert "secret" not in told.replace("secret.png", "")
        served = http.get(f"/gradio_api/file={secret}")
        assert served.status_code in (403, 404)


QUESTION = [{"text": "What?", "files": []}, None, "en", 0, 8, 4, True]


def test_a_fault_leaves_the_page_usable_and_its_words_in_the_log(site, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/home/somebody: CUDA out of memory")

    monkeypatch.setattr(site.server.serving, "begin", fail)
    with site.http() as http:
        events = call(http, "_ask", QUESTION)
        assert events[-1]["success"]
        assert "CUDA" not in json.dumps(events)
        assert "a fault in the server" in json.dumps(events)
        monkeypatch.setattr("video_llama.server.web.page._messages", fail)
        events = call(http, "_ask", QUESTION)  # a fault in the page itself
        assert not events[-1]["success"]
        assert "CUDA" not in json.dumps(events)


def test_a_sample_calls_off_what_else_is_asked(site):
    with site.http() as http:
        known = http.get("/config").json()["dependencies"]
    asked = {one["id"]: one["targets"] for one in known if "ask" in str(one["api_name"])}
    samples = [number for number in asked if asked[number] != asked[min(asked)]][1:]
    assert len(samples) == 4
    for number in samples:
        same = [one for one in known if one["targets"] == asked[number] and one["cancels"]]
        assert [set(one["cancels"]) for one in same] == [asked.keys() - {number}]


def test_files_beside_the_page_are_not_served(site, tmp_path):
    beside = tmp_path / "a.txt"
    beside.write_text("no")
    with site.http() as http:
        for path in (beside, "/etc/hostname", Path(__file__), "https://example.org/a.png"):
            answer = http.get(f"/gradio_api/file={path}", follow_redirects=False)
            assert answer.status_code in (403, 404), path


@needs_browser
def test_long_texts_and_files_of_any_name(site, visit, clip_path, tmp_path):
    nameless = tmp_path / "recording"
    nameless.write_bytes(clip_path.read_bytes())
    visitor = visit(site.url).open()
    visitor.page.locator("#question textarea").focus()
    text = "word " * 300
    visitor.page.evaluate(
        """text => {
            const data = new DataTransfer();
            data.setData("text/plain", text);
            const paste = new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
            document.activeElement.dispatchEvent(paste);
        }""",
        text,
    )
    visitor.page.wait_for_timeout(300)
    expect(visitor.page.locator("#question .thumbnail-item")).to_have_count(0)
    visitor.ask("What?", nameless)
    expect(visitor.answers).to_have_count(1, timeout=WAIT)
    visitor.done()
    assert "recording" in visitor.page.locator("#conversation .seen").first.inner_text()


def test_an_upload_that_was_broken_off_is_removed(start, monkeypatch, eventually, caplog):
    site = start(page=True)
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: "
        'form-data; name="files"; filename="a.mp4"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", site.port)) as sending:
        sending.sendall(head.encode() + bytes(3_000_000))
        eventually(lambda: any(path.is_file() for path in folder.iterdir()))
    with site.http() as http:
        whole = {"files": ("a.mp4", b"whole")}
        assert http.post("/gradio_api/upload", files=whole).status_code == 200
        assert any(path.is_file() for path in folder.iterdir())  # it may be going on
        monkeypatch.setattr("video_llama.server.web.mount._BROKEN_OFF", 0.0)
        assert http.post("/gradio_api/upload", files=whole).status_code == 200
    assert not any(path.is_file() for path in folder.iterdir())
    assert "Traceback" not in caplog.text


def test_uploads_are_bounded(start):
    from video_llama.server.files import StoragePolicy

    site = start(page=True, storage=StoragePolicy(file_bytes=50_000, total_bytes=60_000))
    with site.http() as http:

        def upload(size: int):
            return http.post("/gradio_api/upload", files={"files": ("a.mp4", bytes(size))})

        assert upload(60_000).status_code == 413
        assert upload(40_000).status_code == 200
        assert http.post("/gradio_api/upload", files={"files": ("b.mp4", b"1" * 40_000)})
        assert upload(1000).status_code == 429


def test_the_page_is_told_that_the_server_ends(start, eventually):
    """A browser's open connection would keep the server for ever."""
    site = start(page=True)
    with site.http() as http, http.stream("GET", f"/gradio_api/heartbeat/{SESSION}") as beat:
        lines = beat.iter_lines()
        assert "ALIVE" in next(lines)
        site.server.serving.closing = True
        rest = list(lines)  # it ends
    assert not any(rest)
