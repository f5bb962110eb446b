"""`verify` against real servers on this machine: what it expects, when it asks again, what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from runner import masking
from runner.cluster.protocol import Selection
from runner.errors import Cancelled, StepFailed, TimedOut
from runner.steps import verify
from runner.steps.kind import Files, Forwarded
from tests.steps.servers import FakeContext, Handler, hello, serving
from tests.steps.servers import verified as run


@pytest.fixture
def context(tmp_path: Any) -> FakeContext:
    return FakeContext(tmp_path)


def test_answer_as_outputs(context: FakeContext) -> None:
    """Status, headers in lower case, body, parsed body, time and number of attempts."""
    with serving(hello) as server:
        outputs = run(context, url=f"{server.url}/a?b=c")

    assert server.asked[0][:2] == ("GET", "/a?b=c")
    assert (outputs["status"], outputs["attempts"]) == (200, 1)
    assert outputs["headers"]["content-type"] == "application/json"
    assert outputs["json"] == {"say": "Hello", "n": [1, 2]}
    assert 0 < outputs["elapsed"] < 5


@pytest.mark.parametrize(
    "expected",
    [
        {"status": 200},
        {"status": "2xx"},
        {"status": [404, "2xx"]},
        {"contains": "Hello", "matches": "n.*2", "json": {"n": [1, 2]}},
        {"headers": {"content-type": "application/json"}},
        {"headers": {"Content-Type": {"contains": "json"}}},
        {"that": "response.json.n[1] == 2 && response.headers['content-type'].contains('json')"},
        {"max_elapsed": "5s"},
    ],
)
def test_expectations_that_hold(context: FakeContext, expected: dict[str, Any]) -> None:
    """Each of them is enough."""
    with serving(hello) as server:
        assert run(context, url=server.url, **expected)["attempts"] == 1


@pytest.mark.parametrize(
    ("expected", "difference"),
    [
        ({"status": 201}, "expected status 201, got 200 OK"),
        ({"status": ["3xx", 404]}, "expected status 3xx or 404, got 200 OK"),
        ({"contains": "Goodbye"}, 'expected it to contain "Goodbye", got '),
        ({"headers": {"X-A": "1"}}, "header X-A: expected '1', there is none"),
        ({"headers": {"content-type": "text/html"}}, "header content-type: expected exactly "),
        ({"json": {"n": [1, 3]}}, "$.n[1]: expected 3, got 2"),
        ({"that": "response.json.n[0] == 2"}, "expected that response.json.n[0] == 2"),
        ({"that": "response.json.missing == 2"}, "but there is no field `missing`"),
        ({"max_elapsed": "0.0001ms"}, "expected an answer within 0.0001ms, it took "),
    ],
)
def test_expectations_that_do_not_hold(tmp_path: Any, expected: dict[str, Any], difference: str) -> None:
    """They are asked for again; then the message says what was expected and what came."""
    context = FakeContext(tmp_path)
    context.attempts = 2
    with serving(hello) as server, pytest.raises(StepFailed) as caught:
        run(context, url=server.url, **expected)

    assert caught.value.message.startswith(f"GET {server.url}: ")
    assert difference in caught.value.message
    assert "the answer: 200 OK" in caught.value.details
    assert len(server.asked) == 2


def test_asks_until_the_deadline(tmp_path: Path) -> None:
    """The message says how often."""
    with serving(hello) as server, pytest.raises(TimedOut) as caught:
        run(FakeContext(tmp_path, 0.3), url=server.url, status=404)

    assert caught.value.message.startswith(f"GET {server.url}: asked ")
    assert caught.value.message.endswith(" in 0.3 s; the last time: expected status 404, got 200 OK")
    assert caught.value.reason == "timeout"


def test_asks_until_the_answer_is_right(context: FakeContext) -> None:
    """5xx, cut connections and wrong answers are not final."""

    def cut(handler: Handler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    answers = iter([lambda h: h.say(503), cut, lambda h: h.say(200, b"wait"), hello])

    def answer(handler: Handler) -> None:
        next(answers)(handler)

    with serving(answer) as server:
        outputs = run(context, url=server.url, contains="Hello")

    assert outputs["attempts"] == 4
    assert "expected status 2xx, got 503 Service Unavailable" in context.waits[0]


def test_waits_for_a_server_that_comes_later(context: FakeContext) -> None:
    """A refused connection is repeated; here the server begins to listen after the first refusal."""
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{later.getsockname()[1]}".removeprefix("tcp://")

        def come(what: str) -> None:
            context.waits.append(what)
            later.listen()

        context.waiting = come  # type: ignore[method-assign, assignment]
        outputs = run(context, tcp=url)

    assert outputs["attempts"] == 2
    assert context.waits[0].endswith("connection refused")


def test_refusal_has_a_hint(tmp_path: Any) -> None:
    """Nobody listens: the way to reach a Pod is named."""
    with pytest.raises(TimedOut) as caught:
        run(FakeContext(tmp_path, 0.1), url="http://127.0.0.1:1/")

    assert caught.value.message.endswith("127.0.0.1:1: connection refused")
    assert "`forward`" in caught.value.hint


def test_refusal_names_the_ports_that_are_forwarded(tmp_path: Any) -> None:
    """Most likely the number is wrong on one of the sides."""
    context = FakeContext(tmp_path, 0.3)
    context.others = {8085: Forwarded("127.0.0.1", Selection("service", ("shop",)), "80")}
    with pytest.raises(StepFailed) as caught:
        run(context, url="http://localhost:1/")

    assert caught.value.hint == "this run forwards 8085 (service/shop): did you mean that?"


@pytest.mark.parametrize(
    ("request_", "body", "content_type"),
    [
        ({"method": "POST", "json": {"a": 1}}, b'{"a": 1}', "application/json"),
        ({"method": "PUT", "body": "text"}, b"text", "text/plain; charset=utf-8"),
        ({"method": "POST", "form": {"a": "b c"}}, b"a=b+c", "application/x-www-form-urlencoded"),
        ({"method": "POST", "body": "<a/>", "headers": {"content-type": "text/xml"}}, b"<a/>", "text/xml"),
    ],
)
def test_requests(context: FakeContext, request_: dict[str, Any], body: bytes, content_type: str) -> None:
    """Method, headers and body are sent as written."""
    with serving(hello) as server:
        run(context, url=server.url, request=request_)

    method, _, headers, sent = server.asked[0]
    assert (method, sent) == (request_["method"], body)
    assert {name.lower(): value for name, value in headers.items()}["content-type"] == content_type


def test_post_is_asked_once(context: FakeContext) -> None:
    """A request that may have had its effect is not repeated, whatever the answer."""
    with serving(lambda handler: handler.say(500)) as server, pytest.raises(StepFailed) as caught:
        run(context, url=server.url, request={"method": "POST", "body": "x"})

    assert not isinstance(caught.value, TimedOut)
    assert len(server.asked) == 1
    assert "may have had its effect" in caught.value.hint


def test_post_is_repeated_when_it_was_not_sent(context: FakeContext) -> None:
    """A refused connection carried nothing."""
    with serving(hello) as server:
        port = server.server_port
    # The port is free now; a server takes it after the first refusal.
    started: list[Any] = []

    def come(what: str) -> None:
        context.waits.append(what)
        if not started:
            again = ThreadingHTTPServer(("127.0.0.1", port), Handler)
            again.answer, again.asked = hello, []  # type: ignore[attr-defined]
            threading.Thread(target=again.serve_forever, args=(0.01,), daemon=True).start()
            started.append(again)

    context.waiting = come  # type: ignore[method-assign, assignment]
    outputs = run(context, url=f"http://127.0.0.1:{port}/", request={"method": "POST", "body": "x"})
    started[0].shutdown()
    started[0].server_close()

    assert (outputs["status"], outputs["attempts"]) == (200, 2)


@pytest.mark.parametrize(("follow", "status"), [(False, 302), (True, 200)])
def test_redirects(context: FakeContext, follow: bool, status: int) -> None:
    """They are followed only when asked for; credentials stay with their host."""
    with serving(hello) as other:

        def elsewhere(handler: Handler) -> None:
            handler.say(302, Location=f"{other.url}/there")

        with serving(elsewhere) as server:
            request = {"follow_redirects": follow, "headers": {"Authorization": "Bearer x", "X-Other": "1"}}
            outputs = run(context, url=server.url, status=status, request=request)

    assert outputs["status"] == status
    if follow:
        _, path, headers, _ = other.asked[0]
        assert (path, headers.get("Authorization"), headers.get("X-Other")) == ("/there", None, "1")


def test_addresses_beyond_ascii(context: FakeContext) -> None:
    """They are sent as browsers send them."""
    with serving(hello) as server:
        run(context, url=f"{server.url}/grüße?q=ä%20b#part")

    assert server.asked[0][1] == "/gr%C3%BC%C3%9Fe?q=%C3%A4%20b"


def test_credentials(context: FakeContext) -> None:
    """They are sent, and masked wherever they are repeated."""
    basic = {"username": "me", "password": "geheim-4711"}
    with serving(hello) as server:
        run(context, url=server.url, request={"auth": {"basic": basic}})
        run(context, url=server.url, request={"auth": {"bearer": "sesam-4711"}})

    sent = [headers["Authorization"] for _, _, headers, _ in server.asked]
    assert sent == ["Basic bWU6Z2VoZWltLTQ3MTE=", "Bearer sesam-4711"]
    assert masking.mask(f"{sent} geheim-4711") == "['Basic ***', 'Bearer ***'] ***"


def test_endless_redirects(context: FakeContext) -> None:
    """A circle ends."""
    circle = serving(lambda handler: handler.say(302, Location="/"))
    with circle as server, pytest.raises(StepFailed, match="more than"):
        run(context, url=server.url, request={"follow_redirects": True})


def test_silent_server_costs_one_request_timeout(tmp_path: Any) -> None:
    """A server that takes the request and says nothing, or a byte now and then, does not hold the step."""
    over = threading.Event()

    def dribble(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not over.wait(0.02):
            handler.wfile.write(b"x")

    with serving(dribble) as server, pytest.raises(TimedOut, match=r"no answer within 0\.1 s"):
        run(FakeContext(tmp_path, 0.25), url=server.url, request={"timeout": "100ms"})
    over.set()


def test_cancelling_ends_a_request_at_once(context: FakeContext) -> None:
    """A signal reaches a verify that hangs in a silent server."""
    asked, over = threading.Event(), threading.Event()

    def silent(handler: Handler) -> None:
        asked.set()
        over.wait(20)

    with serving(silent) as server:

        def interrupt() -> None:
            asked.wait(20)
            context.deadline.cancel("SIGINT")

        threading.Thread(target=interrupt, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            run(context, url=server.url, request={"timeout": "20s"})
        took = time.monotonic() - started
        over.set()

    assert took < 10


def test_proxies_of_the_environment_are_ignored(context: FakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY changes nothing."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(hello) as server:
        assert run(context, url=server.url)["status"] == 200


def test_proxy_that_is_not_used_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that only a proxy reaches: the failure says why it was not asked."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with pytest.raises(TimedOut) as caught:
        run(FakeContext(tmp_path, 0.1), url="http://name.invalid/")

    assert caught.value.hint == (
        "HTTP_PROXY is set, but `verify` uses no proxies: name.invalid must be reachable directly"
    )


def test_localhost_is_what_a_forward_bound(tmp_path: Any) -> None:
    """The address of a forward of the run comes before the usual ones."""
    with serving(hello) as server:
        context = FakeContext(tmp_path, localhost="127.0.0.1")
        assert run(context, url=f"http://localhost:{server.server_port}")["status"] == 200
        assert server.asked[0][2]["Host"] == f"localhost:{server.server_port}"


@pytest.mark.parametrize(
    ("charset", "body"), [("utf-8", "é".encode()), ("latin-1", b"\xe9"), ("nonsense", "é".encode())]
)
def test_bodies_are_decoded(context: FakeContext, charset: str, body: bytes) -> None:
    """By the charset that the server names, as UTF-8 otherwise."""
    with serving(lambda handler: handler.say(200, body, Content_Type=f"text/plain; charset={charset}")) as server:
        assert run(context, url=server.url, equals="é")["body"] == "é"


def test_tcp_that_is_closed_at_once(tmp_path: Any) -> None:
    """A listener that hangs up is not what was wanted."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(TimedOut, match="the connection was closed at once"):
            run(FakeContext(tmp_path, 1.5), tcp=f"127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def saying(*pieces: bytes) -> Callable[[Handler], None]:
    """Say these bytes, and hang up."""

    def answer(handler: Handler) -> None:
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)

    return answer


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"HTTP/1.1 200 OK", "cut in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\n", "cut in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\nX-A: 1\r\n", "cut in the middle of the answer"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "cut in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "cut in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n", "cut in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nab", "a chunk of the body has a negative size"),
        (b"SSH-2.0-OpenSSH_9\r\n", "does not speak HTTP/1: 'SSH-2.0-OpenSSH_9"),
        (b"HTTP/3 200 OK\r\n\r\n", "does not speak HTTP/1: 'HTTP/3'"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000, "got more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 200, "got more than 100 headers"),
    ],
)
def test_answers_that_are_none(tmp_path: Any, said: bytes, message: str) -> None:
    """Each has its sentence."""
    context = FakeContext(tmp_path)
    context.attempts = 1
    with serving(saying(said)) as server, pytest.raises(StepFailed) as caught:
        run(context, url=server.url)

    assert message in caught.value.message


def test_interim_answers_are_passed_over(context: FakeContext) -> None:
    """Early hints are no answer; a switch of protocols is one."""
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    with serving(saying(hints * 2, b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nHello")) as server:
        outputs = run(context, url=server.url, contains="Hello")
    with serving(saying(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")) as server:
        assert run(context, url=server.url, status=101)["status"] == 101

    assert outputs["headers"] == {"x-a": "1"}


def test_header_fields_of_one_name(context: FakeContext) -> None:
    """They are one list; cookies, which have commas in them, are a line each."""
    fields = b"Vary: a\r\nSet-Cookie: a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT\r\nvary: b\r\nset-cookie: b=2\r\n"
    with serving(saying(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")) as server:
        outputs = run(context, url=server.url, headers={"Set-Cookie": {"matches": "(?m)^b=2$"}})

    cookies = "a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT\nb=2"
    assert outputs["headers"] == {"vary": "a, b", "set-cookie": cookies}


def test_user_agent(context: FakeContext) -> None:
    """The workflow's is sent in place of the own one, however it is written."""
    with serving(hello) as server:
        run(context, url=server.url)
        run(context, url=server.url, request={"headers": {"user-agent": "mine"}})

    agents = [
        value for *_, headers, _ in server.asked for name, value in headers.items() if name.lower() == "user-agent"
    ]
    assert agents == ["runner", "mine"]


def test_header_that_cannot_be_sent(context: FakeContext) -> None:
    """A value that an expression made: it is not repeated, since it may be a secret."""
    with pytest.raises(StepFailed) as caught:
        run(context, url="http://a/", request={"auth": {"bearer": "sesam-4711\n"}})

    assert caught.value.message == (
        "this request cannot be sent: the value of Authorization has a line break in it, which no header field may have"
    )


class TestCheck:
    """Faults that are found before anything runs."""

    FILES: ClassVar[Files] = Files(Path(__file__).parent, Path(__file__).parent)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({}, "give `url` or `tcp`, one of them"),
            ({"url": "http://a", "tcp": "a:1"}, "give `url` or `tcp`, one of them"),
            ({"tcp": "localhost"}, "'localhost' is not an address"),
            ({"tcp": "localhost:99999"}, "'localhost:99999' is not an address"),
            ({"tcp": "localhost:²"}, "is not an address"),
            ({"tcp": "a:1", "status": 200}, "`status` belongs to HTTP; with `tcp` "),
            ({"url": "localhost:5000"}, "it must begin with http:// or https://"),
            ({"url": "http://"}, "it names no host"),
            ({"url": "http://a/b c"}, "it has a space"),
            ({"url": "http://a:99999"}, "Port out of range"),
            ({"url": "http://me:secret@a/"}, "it has credentials in it"),
            ({"tcp": "::1:80"}, "'::1:80' is not an address"),
            (
                {"tcp": "a:1", "request": {"method": "GET"}},
                "`method` belongs to HTTP",
            ),
            ({"url": "https://a", "request": {"auth": {}}}, "credentials are `basic` or `bearer`, one of them"),
            (
                {"url": "https://a", "request": {"auth": {"bearer": "x"}}},
                "everybody who reads this file",
            ),
            (
                {"url": "http://a", "request": {"auth": {"bearer": "${{ x }}"}, "headers": {"authorization": "y"}}},
                "`auth` sets this field, too",
            ),
            ({"url": "http://a", "request": {"method": "POST"}, "consecutive": 2}, "every POST may have its effect"),
            (
                {"url": "http://a", "request": {"method": "PATCH"}, "throughout": "1s"},
                "every PATCH may have",
            ),
            ({"url": "http://a", "max_failures": 1}, "there is none"),
            ({"url": "http://a", "throughout": []}, "there are no steps to ask throughout of"),
            ({"url": "http://a", "tls": {"insecure": True}}, "`tls` is for https, and the URL begins with http:"),
            ({"url": "https://a", "tls": {"ca": "none.pem"}}, "there is no file none.pem"),
            ({"url": "https://a", "tls": {"key": "none.pem"}}, "give `cert`, too"),
            ({"url": "https://a", "tls": {"ca": "a", "insecure": True}}, "`insecure` trusts any certificate"),
            ({"url": "http://a", "matches": "("}, "this regular expression is not valid"),
            ({"url": "http://a", "headers": {"X": {"matches": "("}}}, "this regular expression is not valid"),
            ({"url": "http://a", "request": {"json": 1, "form": {}}}, "a request has one body: `json` or `form`"),
            ({"url": "http://a", "request": {"headers": {"X": "a\nb"}}}, "the value of X has a line break in it"),
            ({"url": "http://a", "request": {"headers": {"X": "a\0b"}}}, "the value of X has a control character"),
            ({"url": "http://a", "request": {"headers": {"X": "5 €"}}}, "the value of X has the character € in it"),
            ({"url": "http://a", "request": {"headers": {"X A": "1"}}}, "'X A' is not the name of a header field"),
        ],
    )
    def test_fault(self, data: dict[str, Any], message: str) -> None:
        """Each has a sentence of its own."""
        faults = list(verify.check(data, self.FILES))

        assert any(message in fault.message for fault in faults), faults

    def test_expressions_are_left_to_the_run(self) -> None:
        """A value that is not known yet has no fault."""
        assert list(verify.check({"url": "${{ steps.web.outputs.url }}"}, self.FILES)) == []


def test_equivalent_is_curl(context: FakeContext) -> None:
    """What a script would type; expectations that curl cannot check are named."""
    args = msgspec.convert(
        {
            "url": "http://a/",
            "contains": ["x", "y"],
            "json": {"a": 1},
            "request": {"method": "PUT", "json": {"b": 2}, "headers": {"X": "1"}, "follow_redirects": True},
        },
        verify.Args,
    )

    *remarks, line = verify.equivalent(args, context.scene)

    assert remarks == ["# verify also expects: contains y", '# verify also expects: json {"a": 1}']
    assert line == (
        "verify 10 0 '2??' x curl --request PUT --header 'X: 1' --header 'Content-Type: application/json' "
        "--data-raw '{\"b\": 2}' --location --max-redirs 10 http://a/"
    )


def test_name_that_cannot_be_one(tmp_path: Any) -> None:
    """It is told as what it is, at the deadline as any unknown name."""
    with pytest.raises(TimedOut, match=r"the name a\.\.b is not known"):
        run(FakeContext(tmp_path, 0.3), url="http://a..b/")


# -- servers that do harm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", ["HTTP/1.1 200 OK\r\nX-A: 1\r\n", "HTTP/1.1 200 OK\r\n\r\nHello"])
def test_an_answer_without_an_end_is_none(tmp_path: Path, begins: str) -> None:
    """What was cut off at the end of the time is not what the server had to say."""

    def drip(handler: Handler) -> None:
        handler.wfile.write(begins.encode())
        handler.wfile.flush()
        handler.connection.settimeout(20)
        handler.connection.recv(1)

    context = FakeContext(tmp_path)
    context.attempts = 1
    with serving(drip) as server, pytest.raises(StepFailed) as caught:
        run(context, url=server.url, contains="" if "X-A" in begins else "Hello", request={"timeout": "300ms"})
    assert "no answer within 0.3 s" in caught.value.message


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://localhost:99999/", "is no address: "),
        ("http://[::bad/", "is no address: "),
        ("https:///nowhere", "names no host"),
        ("ftp://a/", "is not HTTP"),
    ],
)
def test_redirects_to_nowhere(context: FakeContext, target: str, why: str) -> None:
    """A sentence, and no second try."""

    def away(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with serving(away) as server, pytest.raises(StepFailed) as caught:
        run(context, url=server.url, request={"follow_redirects": True})
    assert f"redirects to {target}, which {why}" in caught.value.message
