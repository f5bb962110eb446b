"""`verify` over TLS, against real servers with certificates made here: whom it trusts, each way in which it fails."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from runner.errors import StepFailed, TimedOut
from tests.steps.servers import FakeContext, hello, serving
from tests.steps.servers import verified as run


class Authority:
    """A certificate authority, the files that it wrote into a folder, and servers with its certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))

    def server(self, *names: str, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*(names or ("127.0.0.1", "localhost")), **options).configure_cert(context)
        return context

    def wanting_clients(self) -> ssl.SSLContext:
        context = self.server()
        context.verify_mode = ssl.CERT_REQUIRED
        self.ca.configure_trust(context)
        return context

    def client(self, name: str = "client") -> None:
        """Write `client.pem` and `client-key.pem`."""
        issued = self.ca.issue_cert(f"{name}@example.org")
        issued.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(self.folder / f"{name}-key.pem"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    return FakeContext(tmp_path)


def refused(context: FakeContext, **data: Any) -> StepFailed:
    """The failure, which came at once: asking again would not cure it."""
    with pytest.raises(StepFailed) as caught:
        run(context, **data)
    assert not isinstance(caught.value, TimedOut)
    assert caught.value.reason == "tls"
    return caught.value


@pytest.mark.parametrize("tls", [{"ca": "ca.pem"}, {"insecure": True}])
def test_trust(context: FakeContext, authority: Authority, tls: dict[str, Any]) -> None:
    """The authority of a file, relative to the workflow; or anybody."""
    with serving(hello, authority.server()) as server:
        assert run(context, url=server.url, tls=tls)["status"] == 200
        assert server.asked[0][2]["Host"] == f"127.0.0.1:{server.server_port}"


def test_server_name(context: FakeContext, authority: Authority) -> None:
    """The name that is asked for and looked for in the certificate, whatever the URL says."""
    asked: list[str | None] = []
    secure = authority.server("shop.example.com")
    secure.sni_callback = lambda _, name, __: asked.append(name)
    with serving(hello, secure) as server:
        tls = {"ca": "ca.pem", "server_name": "shop.example.com"}
        assert run(context, url=server.url, tls=tls)["status"] == 200

    assert asked == ["shop.example.com"]


@pytest.mark.parametrize("in_one_file", [False, True])
def test_client_certificate(context: FakeContext, authority: Authority, tmp_path: Path, in_one_file: bool) -> None:
    """Its key is in a file of its own, or in the same one."""
    authority.client()
    keys = {"cert": "client.pem", "key": "client-key.pem"}
    if in_one_file:
        both = (tmp_path / "client.pem").read_text() + (tmp_path / "client-key.pem").read_text()
        (tmp_path / "both.pem").write_text(both)
        keys = {"cert": "both.pem"}
    with serving(hello, authority.wanting_clients()) as server:
        assert run(context, url=server.url, tls={"ca": "ca.pem", **keys})["status"] == 200


def test_unknown_authority(context: FakeContext, authority: Authority) -> None:
    """The system does not know it, and the way to make it known is named."""
    with serving(hello, authority.server()) as server:
        failure = refused(context, url=server.url)

    place = server.url.removeprefix("https://")
    assert failure.message == f"the certificate of {place} is signed by an authority that is not trusted here"
    assert "tls: {ca: ca.pem}" in failure.hint


def test_self_signed(context: FakeContext, tmp_path: Path) -> None:
    """A certificate that signs itself."""
    own = trustme.CA()
    own.cert_pem.write_to_path(str(tmp_path / "own.pem"))
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "key.pem").write_bytes(own.private_key_pem.bytes())
    secure.load_cert_chain(tmp_path / "own.pem", tmp_path / "key.pem")
    with serving(hello, secure) as server:
        failure = refused(context, url=server.url)

    assert "is signed by nobody but itself" in failure.message


def test_another_name(context: FakeContext, authority: Authority) -> None:
    """The names that the certificate is for are named."""
    with serving(hello, authority.server("shop.example.com", "*.example.org")) as server:
        failure = refused(context, url=server.url, tls={"ca": "ca.pem"})

    assert failure.message.endswith("is not for 127.0.0.1; it is for shop.example.com, *.example.org")
    assert failure.hint == "check for that name: tls: {server_name: shop.example.com}"


@pytest.mark.parametrize(
    ("days", "words"), [((-10, -1), "has expired"), ((1, 10), "is not valid yet")], ids=["expired", "not yet"]
)
def test_time(context: FakeContext, authority: Authority, days: tuple[int, int], words: str) -> None:
    """Too late, or too early."""
    now = dt.datetime.now(dt.UTC)
    begin, end = (now + dt.timedelta(days=number) for number in days)
    with serving(hello, authority.server(not_before=begin, not_after=end)) as server:
        failure = refused(context, url=server.url, tls={"ca": "ca.pem"})

    assert failure.message.endswith(words)
    assert failure.hint


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificate_is_wanted(context: FakeContext, authority: Authority, version: ssl.TLSVersion) -> None:
    """TLS 1.2 says so during the handshake, TLS 1.3 after it."""
    secure = authority.wanting_clients()
    secure.maximum_version = version
    with serving(hello, secure) as server:
        failure = refused(context, url=server.url, tls={"ca": "ca.pem"})

    assert "client certificate" in failure.message
    assert "tls: {cert: client.pem, key: client-key.pem}" in failure.hint


def test_client_certificate_is_not_accepted(context: FakeContext, authority: Authority, tmp_path: Path) -> None:
    """One of another authority."""
    (tmp_path / "other").mkdir()
    Authority(tmp_path / "other").client()
    tls = {"ca": "ca.pem", "cert": "other/client.pem", "key": "other/client-key.pem"}
    with serving(hello, authority.wanting_clients()) as server:
        failure = refused(context, url=server.url, tls=tls)

    assert "does not accept the client certificate (unknown ca)" in failure.message


def test_https_on_a_plain_port(context: FakeContext) -> None:
    """What answers there is no TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            client.recv(1000)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.close()

        threading.Thread(target=answer, daemon=True).start()
        place = f"127.0.0.1:{server.getsockname()[1]}"
        failure = refused(context, url=f"https://{place}/")

    assert failure.message == f"{place} does not speak TLS"
    assert "http://" in failure.hint


def test_plain_http_on_a_tls_port(context: FakeContext, authority: Authority) -> None:
    """A server that hangs up on plain HTTP is asked once whether it would take TLS."""
    with serving(hello, authority.server()) as server:
        place = server.url.removeprefix("https://")
        failure = refused(context, url=f"http://{place}/")

    assert failure.message == f"{place} speaks TLS, and was asked in plain HTTP"
    assert failure.hint == "write https:// instead of http://"


def test_plain_http_that_is_answered_by_an_alert(context: FakeContext) -> None:
    """The beginning of a TLS alert instead of a status line."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            client.recv(1000)
            client.sendall(b"\x15\x03\x01\x00\x02\x02\x46\r\n")
            client.close()

        threading.Thread(target=answer, daemon=True).start()
        failure = refused(context, url=f"http://127.0.0.1:{server.getsockname()[1]}/")

    assert "speaks TLS" in failure.message


def test_redirect_to_https(context: FakeContext, authority: Authority) -> None:
    """What is trusted holds there, too; credentials stay with the first server."""
    with serving(hello, authority.server()) as secure:

        def elsewhere(handler: Any) -> None:
            handler.say(301, Location=f"{secure.url}/there")

        with serving(elsewhere) as server:
            request = {"follow_redirects": True, "auth": {"bearer": "geheim123"}}
            assert run(context, url=server.url, tls={"ca": "ca.pem"}, request=request)["status"] == 200
            assert server.asked[0][2]["Authorization"] == "Bearer geheim123"
            assert "Authorization" not in secure.asked[0][2]


def test_files_that_cannot_be_used(context: FakeContext, authority: Authority, tmp_path: Path) -> None:
    """Missing, not PEM, a key of another certificate, a key with a password: each is said before anything is asked."""
    authority.client()
    authority.client("other")
    (tmp_path / "text.pem").write_text("hello")
    locked = (tmp_path / "client-key.pem").read_text()
    (tmp_path / "locked.pem").write_text(
        locked.replace("\n", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n", 1)
    )

    def why(**tls: str) -> str:
        return refused(context, url="https://127.0.0.1:1/", tls=tls).message

    assert "none.pem cannot be used: No such file or directory" in why(ca="none.pem")
    assert "`tls.ca`: " in why(ca="text.pem")
    assert "there is no certificate in it" in why(ca="text.pem")
    assert "`tls.cert`: " in why(cert="text.pem", key="client-key.pem")
    assert "`tls.key`: " in why(cert="client.pem", key="none.pem")
    assert "does not belong to the certificate" in why(cert="client.pem", key="other-key.pem")
    assert "locked.pem cannot be used: it is protected by a password" in why(cert="client.pem", key="locked.pem")


def test_silent_handshake_costs_one_request_timeout(tmp_path: Path) -> None:
    """A port that takes connections and says nothing does not hold the step."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(TimedOut, match="asked"):
            run(FakeContext(tmp_path, 0.25), url=url, request={"timeout": "100ms"})
