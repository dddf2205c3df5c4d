"""A server that is safe by default: whom it answers, what it reads and fetches, what it takes, and what it tells."""

import asyncio
import base64
import http.client
import http.server
import io
import json
import logging
import re
import resource
import socket
import struct
import threading
import zlib

import av
import numpy as np
import openai
import pytest
import soundfile
from PIL import Image

from mmlm.cli import main
from mmlm.cli.serve import is_loopback
from mmlm.serving.context import Workers
from mmlm.serving.settings import Limits, Settings
from mmlm.serving.ticket import BusyError
from support.serving import serving, until

SECRET = "xyzzy-secret"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server(nano):
    limits = Limits(max_body_bytes=1_000_000, max_pixels=100_000, max_media=3, max_seconds=5)
    with serving({"nano": lambda: nano}, Settings(limits=limits)) as running:
        yield running


def post(server, body, path="/v1/chat/completions", **headers) -> tuple[int, dict]:
    """Status and body of the answer to a request as it is."""
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    data = body if isinstance(body, (bytes, str)) else json.dumps(body)
    link.request("POST", path, data, {"Content-Type": "application/json", **headers})
    answer = link.getresponse()
    return answer.status, json.loads(answer.read())


def asking(address: object) -> dict:
    part = {"type": "image_url", "image_url": {"url": address}}
    return {"model": "nano", "messages": [{"role": "user", "content": [part, {"type": "text", "text": "what is it?"}]}]}


def good(server) -> bool:
    status, answer = post(server, {"model": "nano", "messages": HELLO, "max_tokens": 3})
    return status == 200 and isinstance(answer["choices"][0]["message"]["content"], str)


# ---- whom it answers


def test_a_key_is_needed_for_all_but_health(nano):
    with serving({"nano": lambda: nano}, Settings(api_key=SECRET)) as server:
        for path in ("/v1/models", "/metrics", "/v1/chat/completions", "/openapi.json", "/nothing"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": SECRET}, {"X-Key": SECRET}):
                link = http.client.HTTPConnection("127.0.0.1", server.port)
                link.request("GET", path, headers=headers)
                answer = link.getresponse()
                assert answer.status == 401 and json.loads(answer.read())["error"]["code"] == "invalid_api_key"
        link = http.client.HTTPConnection("127.0.0.1", server.port)
        link.request("GET", "/health")
        assert link.getresponse().status == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=SECRET, max_retries=0)
        assert [one.id for one in client.models.list()] == ["nano"]


def test_who_sends_much_without_the_key_is_told_so(nano):
    with serving({"nano": lambda: nano}, Settings(api_key=SECRET)) as server:
        status, answer = post(server, bytes(20_000_000))
        assert status == 401 and answer["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Host": "10.0.0.1:80"}, {"Host": ""},
        {"Host": "[::1"}, {"Origin": "http://["}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:1"},
    ],
)  # fmt: skip
def test_without_a_key_no_page_of_another_site_is_answered(server, headers):
    status, answer = post(server, {"model": "nano", "messages": HELLO}, **headers)
    assert status == 403 and answer["error"]["type"] == "permission_error"


def test_no_answer_lets_another_site_read_it(server):
    link = http.client.HTTPConnection("127.0.0.1", server.port)
    link.request("OPTIONS", "/v1/chat/completions", headers={"Access-Control-Request-Method": "POST"})
    answer = link.getresponse()
    assert answer.status == 405 and answer.headers["Allow"] == "POST"
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_asked_without_a_key_in_either_way(nano, method):
    with serving({"nano": lambda: nano}, Settings(api_key=SECRET)) as server:
        link = http.client.HTTPConnection("127.0.0.1", server.port)
        link.request(method, "/health")
        answer = link.getresponse()
        assert answer.status == 200 and answer.read() == (b"" if method == "HEAD" else b'{"status":"ok"}')


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_machines_need_a_key(host, capsys, monkeypatch):
    monkeypatch.delenv("MMLM_API_KEY", raising=False)
    assert not is_loopback(host)
    assert main(["serve", "--host", host]) == 2
    assert "--api-key" in capsys.readouterr().err


def test_as_much_is_taken_on_at_once_as_was_asked_for(monkeypatch):
    from mmlm.serving.options import EngineOptions

    given = []
    monkeypatch.setattr("mmlm.serving.run.serve", lambda loaders, settings, place, options, **_: given.append(options))
    assert main(["serve", "nano", "--max-rows", "3", "--max-recordings", "2", "--max-waiting", "5"]) == 0
    assert main(["serve", "nano"]) == 0
    assert given == [EngineOptions(max_rows=3, max_recordings=2, max_waiting=5), EngineOptions()]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_this_machine_needs_none(host):
    assert is_loopback(host)


# ---- what it reads and fetches


@pytest.fixture
def site():
    """A web server of this machine that counts who asks it, and leads elsewhere on /to?ADDRESS."""
    hits: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            where = self.path.partition("/to?")[2]
            self.send_response(302 if where else 200)
            if where:
                self.send_header("Location", where)
            self.end_headers()
            if not where:
                Image.new("RGB", (8, 8)).save(self.wfile, "PNG")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.hits, running.port = hits, running.server_address[1]
        yield running
        running.shutdown()


OWN = ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0", "127.1"]
HOSTS = [frozenset(), frozenset({"pictures.example"}), frozenset(host.strip("[]") for host in OWN)]


@pytest.mark.parametrize("hosts", HOSTS, ids=["none", "another", "itself"])
def test_this_machine_is_never_asked(nano, site, hosts):
    with serving({"nano": lambda: nano}, Settings(hosts=hosts)) as server:
        for host in OWN:
            for scheme in ("http", "HTTP", "https"):
                status, answer = post(server, asking(f"{scheme}://{host}:{site.port}/a.png"))
                assert status == 400 and answer["error"]["code"] == "invalid_image_url", host
    assert site.hits == []


def test_a_redirect_is_followed_to_allowed_hosts_of_the_internet_alone(nano, site, monkeypatch):
    """The site counts as a machine of the internet under one name, and leads back to this machine under others."""
    import encoders.media.fetch as fetching

    resolved = fetching._resolved

    def named(host, port, end):
        return resolved("127.0.0.1" if host.endswith(".example") else host, port, end)

    monkeypatch.setattr(fetching, "_resolved", named)
    public = [True]
    monkeypatch.setattr(fetching, "is_public", lambda address: public[0])
    own = f"http://pictures.example:{site.port}"
    with serving({"nano": lambda: nano}, Settings(hosts=frozenset({"pictures.example"}))) as server:
        assert post(server, asking(f"{own}/a.png"))[0] == 200 and site.hits == ["/a.png"]
        for host in ("127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "other.example"):
            del site.hits[:]
            status, answer = post(server, asking(f"{own}/to?http://{host}:{site.port}/b.png"))
            assert status == 400 and host not in answer["error"]["message"]
            assert len(site.hits) == 1 and site.hits[0].startswith("/to?")
        assert post(server, asking(f"{own}/to?file:///etc/passwd"))[0] == 400
        del site.hits[:]
        public[0] = False  # the name now leads into the network
        assert post(server, asking(f"{own}/a.png"))[0] == 400 and site.hits == []


NAMES = [
    "/etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "etc/passwd", "../../etc/passwd", "~/.ssh/id_rsa",
    "ftp://127.0.0.1/a", "//127.0.0.1/a", "\\\\host\\share", "", "data:", 7, None, ["/etc/passwd"],
    {"path": "/etc/passwd"},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=map(str, NAMES))
def test_no_string_names_a_file(server, tmp_path, name):
    status, answer = post(server, asking(name))
    assert status == 400 and "root:" not in json.dumps(answer) and "no such file" not in json.dumps(answer)


@pytest.mark.parametrize("kind", ["image", "audio", "video", "input_image", "file"])
def test_no_other_form_of_a_part_names_a_file(server, tmp_path, kind):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    for field in ("path", "url", kind, "image_url", "file_id"):
        part = {"type": kind, field: str(path)}
        body = {"model": "nano", "messages": [{"role": "user", "content": [part]}]}
        assert post(server, body)[0] == 400
    body = {"model": "nano", "messages": [{"role": "user", "content": [str(path)]}]}
    assert post(server, body)[0] == 400
    assert post(server, {"model": "nano", "input": [{"image_url": {"url": str(path)}}]}, "/v1/embeddings")[0] == 400
    assert post(server, {"model": str(tmp_path), "messages": HELLO})[0] == 404


# ---- what it takes


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes and many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(50_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_a_bomb_is_refused_in_little_memory(server):
    assert good(server)
    data = [data_url(bomb(width, height)) for width, height in ((5000, 5000), (60_000, 60_000), (317, 316))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for address in data:
        status, answer = post(server, asking(address))
        assert status == 400 and answer["error"]["param"] == "messages[0].content[0].image_url.url"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes
    assert good(server)


def test_counts_add_up_over_a_request(server):
    picture = io.BytesIO()
    Image.new("RGB", (200, 200)).save(picture, "PNG")
    part = {"type": "image_url", "image_url": {"url": data_url(picture.getvalue())}}

    def status(parts):
        content = [*parts, {"type": "text", "text": "what is it?"}]
        return post(server, {"model": "nano", "messages": [{"role": "user", "content": content}], "max_tokens": 2})

    assert status([part] * 2)[0] == 200
    assert status([part] * 3)[1]["error"]["code"] == "too_many_pixels"
    small = io.BytesIO()
    Image.new("RGB", (9, 9)).save(small, "PNG")
    part["image_url"]["url"] = data_url(small.getvalue())
    assert status([part] * 4)[1]["error"]["code"] == "too_many_media"


def test_a_long_recording_is_refused_by_its_header(server):
    data = io.BytesIO()
    soundfile.write(data, np.zeros(8000 * 6, np.int16), 8000, format="FLAC")
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data.getvalue()).decode(), "format": "wav"}}
    status, answer = post(server, {"model": "nano", "messages": [{"role": "user", "content": [part]}]})
    assert status == 400 and "longer than 5 s" in answer["error"]["message"]
    assert "max_seconds" not in answer["error"]["message"]


def lying(seconds: float) -> bytes:
    """A recording whose header says that each of its packets is a sixteenth of what it is."""
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=int(16_000 * seconds))
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        frame.sample_rate = 16_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    found = bytearray(data.getvalue())
    at = found.index(b"stts") + 12  # one entry: of how many packets, and the samples of each
    assert struct.unpack(">I", found[at + 4 : at + 8]) == (1024,)
    found[at + 4 : at + 8] = struct.pack(">I", 64)
    return bytes(found)


@pytest.mark.parametrize("mode", ["transcript", "features", "both"])
def test_a_recording_that_is_longer_than_its_header_says_is_refused_in_a_chat(server, mode):
    data = base64.b64encode(lying(7)).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}
    body = {"model": "nano", "messages": [{"role": "user", "content": [part]}], "mode": mode, "max_tokens": 2}
    status, answer = post(server, body)
    assert status == 400 and "longer than 5 s" in answer["error"]["message"]


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/audio/transcriptions"])
def test_a_body_that_is_too_large_is_refused_in_little_memory(server, stated, path):
    assert good(server)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size, piece = 100_000_000, bytes(1 << 20)
    kind = "application/json" if "chat" in path else "multipart/form-data; boundary=b"
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        how = f"Content-Length: {size}" if stated else "Transfer-Encoding: chunked"
        link.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{how}\r\n\r\n".encode())
        if kind != "application/json" and not stated:
            start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            link.sendall(f"{len(start):x}\r\n".encode() + start + b"\r\n")
        for _ in range(size >> 20):
            link.sendall(piece if stated else f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if not stated:
            link.sendall(b"0\r\n\r\n")
        answer = http.client.HTTPResponse(link)
        answer.begin()
        assert answer.status == 413 and json.loads(answer.read())["error"]["code"] == "body_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kilobytes
    assert good(server)


def test_a_body_that_comes_too_slowly_is_given_up(nano):
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    limits = Limits(read_seconds=0.2)
    with (
        serving({"nano": lambda: nano}, Settings(limits=limits)) as server,
        socket.create_connection(("127.0.0.1", server.port)) as link,
    ):
        link.sendall(head)
        answer = http.client.HTTPResponse(link)
        answer.begin()
        assert answer.status == 408


def test_bodies_of_all_requests_together_are_limited(nano):
    with serving({"nano": lambda: nano}, Settings(limits=Limits(max_held_bytes=100_000))) as server:
        body = {"model": "nano", "messages": [{"role": "user", "content": "a" * 200_000}]}
        link = http.client.HTTPConnection("127.0.0.1", server.port)
        link.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        assert answer.status == 503 and int(answer.headers["Retry-After"]) >= 1
        assert good(server)  # what was held is held no more


BODIES = [
    b"",
    b"{",
    b"[]",
    b"7",
    b"null",
    b"[" * 100_000,
    b'{"model": ' + b"9" * 10_000 + b"}",
    b"\xff\xfe",
    b'"\\ud800"',
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize(
    "path", ["chat/completions", "images/generations", "audio/speech", "embeddings", "images/edits"]
)
def test_a_body_that_makes_no_sense_is_the_clients_fault(server, body, path):
    status, answer = post(server, body, f"/v1/{path}")
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"


def nested(levels: int) -> dict:
    found: dict = {}
    for _ in range(levels):
        found = {"properties": {"a": found}}
    return found


def test_a_body_is_nested_as_deeply_as_can_be_read(server):
    def asked(levels):
        tool = {"type": "function", "function": {"name": "a", "parameters": nested(levels)}}
        return post(server, {"model": "nano", "messages": HELLO, "tools": [tool], "max_tokens": 2})

    assert asked(20)[0] == 200
    status, answer = asked(300)
    assert status == 400 and "nested" in answer["error"]["message"]


def form(*fields: tuple[str, bytes, str | None]) -> bytes:
    """The parts of a form: name, content, and the file's name where it is one."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"'.encode()
        + (b"" if file is None else f'; filename="{file}"'.encode())
        + b"\r\n\r\n" + content + b"\r\n"
        for name, content, file in fields
    ]  # fmt: skip
    return b"".join(parts) + b"--b--\r\n"


def test_forms_take_no_file_that_they_have_no_field_for_and_any_temperature(server):
    def asked(*more):
        fields = [("model", b"nano", None), ("file", wav.getvalue(), "a.wav"), *more]
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        return post(server, form(*fields), "/v1/audio/transcriptions", **kind)

    wav = io.BytesIO()
    noise = np.random.default_rng(0).standard_normal(8000) / 10
    soundfile.write(wav, noise, 16_000, format="WAV")
    status, expected = asked(("language", b"en", None))
    assert status == 200
    assert asked(("language", b"en", None), ("temperature", b"1e-300", None)) == (200, expected)
    for name in ("notes", "model"):
        status, answer = asked((name, b"a", "a.txt"))
        assert status == 400 and answer["error"]["param"] == name and "no file" in answer["error"]["message"]


def test_errors_name_fields_and_values_of_the_request_that_was_sent(server):
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": "one two three four five"}}}
    body = {"model": "nano", "messages": HELLO, "response_format": schema, "max_tokens": 2}
    status, answer = post(server, body)
    assert status == 400 and (found := re.search(r"max_completion_tokens=(\d+)", answer["error"]["message"]))
    assert post(server, {**body, "max_tokens": int(found[1])})[0] == 200
    status, answer = post(server, {"model": "nano", "messages": [*HELLO, {"role": "x", "content": "a"}]})
    assert status == 400 and answer["error"]["param"] == "messages" and "messages[1]" in answer["error"]["message"]
    refusal = [{"role": "user", "content": [{"type": "refusal"}]}]
    status, answer = post(server, {"model": "nano", "input": refusal}, "/v1/responses")
    assert status == 400 and answer["error"]["param"] == "input" and "messages" not in answer["error"]["message"]
    wrong = {"model": "nano", "input": "hello", "text": {"format": {"type": SECRET}}}
    status, answer = post(server, wrong, "/v1/responses")
    assert status == 400 and answer["error"]["param"] == "text" and SECRET not in answer["error"]["message"]


# ---- what it tells, and to whom


def test_a_request_that_fails_touches_no_other(server, nano):
    body = {"model": "nano", "messages": HELLO, "max_tokens": 8}
    expected = nano.chat(HELLO, max_new_tokens=8)
    bad = [
        asking("/etc/passwd"),
        asking(data_url(b"\x89PNG\r\n\x1a\nbroken")),
        {**body, "max_tokens": 9999},
        {"model": 1},
    ]
    found: list = []
    threads = [
        threading.Thread(target=lambda one=one: found.append((one, post(server, one)))) for one in [body, *bad] * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15
    for one, (status, answer) in found:
        assert status == (200 if one is body else 400)
        if one is body:
            assert answer["choices"][0]["message"]["content"] == expected
    engine = server.models.loaded()[0].engine
    until(lambda: engine.running == engine.waiting == 0)


def test_logs_hold_no_contents(nano, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)

    def fails(*_, **__):
        raise KeyError(SECRET)

    with serving({"nano": lambda: nano}) as server:
        said = [{"role": "user", "content": f"{SECRET} hello"}]
        assert post(server, {"model": "nano", "messages": said, "max_tokens": 2})[0] == 200
        assert post(server, {"model": SECRET, "messages": said})[0] == 404
        assert post(server, {"model": "nano", SECRET: 1, "messages": said})[0] == 400
        assert post(server, {}, f"/{SECRET}?{SECRET}")[0] == 404
        monkeypatch.setattr("mmlm.serving.dialect.chat.chat_prompt", fails)
        status, answer = post(server, {"model": "nano", "messages": said})
        assert status == 500 and SECRET not in json.dumps(answer)
    shown = "\n".join(
        [*(record.getMessage() for record in caplog.records), *(r.exc_text or "" for r in caplog.records)]
    )
    assert "/v1/chat/completions 200" in shown and "KeyError at" in shown and "elsewhere 404" in shown
    assert SECRET not in shown and "Traceback" not in shown


def test_the_librarys_warnings_show_their_place_alone(capfd, monkeypatch):
    """They quote what they are about."""
    import warnings

    from mmlm.serving.run import keep_contents_out_of_logs

    names = ["mmlm", "mmlm.serving", "encoders", "decoders", "uvicorn"]
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    try:
        keep_contents_out_of_logs()
        warnings.showwarning(UserWarning(SECRET), UserWarning, "/a/place.py", 7)
        logging.getLogger("encoders.transcription").warning("left out: %s", SECRET)
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate
    shown = capfd.readouterr().err
    assert "UserWarning at place.py:7" in shown and SECRET not in shown


def test_several_models_share_no_part_flags(capsys):
    assert main(["serve", "nano", "other", "--image-encoder", "x"]) == 2
    assert "--image-encoder" in capsys.readouterr().err
    assert main(["serve", "nano", "nano"]) == 2 and "twice" in capsys.readouterr().err


def test_work_counts_until_its_thread_is_done_though_its_client_left():
    workers, begun, free = Workers("test", 2), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return free.wait(30)

    async def run() -> None:
        left = threading.Event()
        waiting = asyncio.create_task(workers.run(work, left))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled() and left.is_set()
        other = asyncio.create_task(workers.run(work))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await workers.run(bool)
        free.set()
        assert await other
        while workers._waiting:  # the thread that nobody waits for may end later
            await asyncio.sleep(0.001)
        assert await asyncio.gather(workers.run(bool), workers.run(bool)) == [False, False]

    asyncio.run(asyncio.wait_for(run(), 60))
    workers.close()
