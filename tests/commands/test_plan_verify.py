"""The planned bash of `verify`, run for real against a server on this machine."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.steps.servers import Handler, hello, serving

Runner = Callable[..., subprocess.CompletedProcess[str]]
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(runner: Runner, tmp_path: Path) -> Script:
    """Plan a workflow as a script, and run that."""

    def script(flow: str, *, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        (tmp_path / "flow.yaml").write_text(textwrap.dedent(flow))
        planned = runner("plan", "--format", "sh", "--engine", "podman", "flow.yaml", cwd=tmp_path, env=env or {})
        assert planned.returncode == 0, planned.stderr
        (tmp_path / "plan.sh").write_text(planned.stdout)
        return subprocess.run(
            ["bash", "plan.sh"],
            cwd=tmp_path, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return script


def test_throughout_steps(script: Script, tmp_path: Path) -> None:
    """It asks in the background while the steps run, and ends with them. ShellCheck has nothing to say."""
    with serving(hello) as server:
        answer = script(f"""
            steps:
              - verify:
                  url: {server.url}
                  contains: Hello
                  throughout:
                    - run: sleep 0.5
                    - run: echo inside
              - run: echo after
            """)

    assert (answer.returncode, answer.stdout) == (0, "inside\nafter\n")
    assert len(server.asked) > 2
    checker = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([checker, "plan.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.stdout == ""


@pytest.mark.parametrize(("most", "code"), [(0, 1), (1000, 0)])
def test_throughout_counts_failures(script: Script, most: int, code: int) -> None:
    """More of them than may be end the script."""
    count = iter(range(1000))
    with serving(lambda handler: handler.say(200 if next(count) == 0 else 503)) as server:
        keys = f"url: '{server.url}', throughout: 300ms, max_failures: {most}"
        answer = script(f"steps: [{{verify: {{{keys}}}}}, {{run: echo after}}]\n")

    assert answer.returncode == code
    assert ("after" in answer.stdout) is (code == 0)
    assert ("asks failed" in answer.stderr) is (code == 1)


def test_asked_once(script: Script) -> None:
    """A POST that was sent is not sent again; nor is anything with `retry: 1`."""
    with serving(lambda handler: handler.say(500)) as server:
        answer = script(f"""
            steps:
              - {{verify: {{url: "{server.url}", request: {{method: POST, body: x}}}}, continue_on_error: true}}
              - {{verify: {{url: "{server.url}"}}, retry: 1}}
            """)

    assert answer.returncode == 1
    assert [method for method, *_ in server.asked] == ["POST", "GET"]
    assert "not as expected: curl" in answer.stderr


def test_tls_and_credentials(script: Script, tmp_path: Path) -> None:
    """Certificates by their files; secrets by the environment, wherever the workflow has them from."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.example.com").configure_cert(secure)
    statuses = iter([503, 200, 200])

    def answer(handler: Handler) -> None:
        handler.say(next(statuses))

    with serving(answer, secure) as server:
        ended = script(
            f"""
            inputs: {{token: {{secret: true, env: TOKEN}}}}
            steps:
              - verify:
                  url: {server.url}/a
                  tls: {{ca: ca.pem, server_name: shop.example.com}}
                  request: {{auth: {{bearer: "${{{{ inputs.token }}}}"}}}}
              - verify:
                  url: {server.url}/b
                  tls: {{ca: ca.pem, server_name: shop.example.com}}
                  request: {{auth: {{basic: {{username: me, password: "${{{{ env.PASSWORD }}}}"}}}}}}
            """,
            env={"TOKEN": "geheim", "PASSWORD": "sesam", "value_2": "sesam"},
        )

    assert ended.returncode == 0, ended.stderr
    assert [headers["Authorization"] for _, _, headers, _ in server.asked[1:]] == [
        "Bearer geheim", "Basic bWU6c2VzYW0=",
    ]  # fmt: skip
    assert {headers["Host"] for _, _, headers, _ in server.asked} == {f"127.0.0.1:{server.server_port}"}
    text = (tmp_path / "plan.sh").read_text()
    assert "geheim" not in text
    assert "sesam" not in text


def test_tcp(script: Script) -> None:
    """A connection is enough, and nobody is waited for."""
    with serving(hello) as server:
        open_ = f"verify: {{tcp: '127.0.0.1:{server.server_port}'}}"
        answer = script(f"steps: [{{{open_}}}, {{run: echo yes}}, {{verify: {{tcp: '127.0.0.1:1'}}, retry: 1}}]\n")

    assert (answer.returncode, answer.stdout) == (1, "yes\n")


def test_what_a_script_does_not_check_is_said(
    runner: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """On stderr, because the script goes to stdout; a tolerated step does not make commands of remarks."""
    step = "{verify: {url: 'http://localhost:1/', json: {a: 1}, headers: {X: '2'}}, continue_on_error: true}"
    (tmp_path / "flow.yaml").write_text(f"steps: [{step}]")

    answer = runner("plan", "--format", "sh", "flow.yaml", cwd=tmp_path)

    assert answer.stderr == "runner: 2 expectations of `verify` are remarks in this script, not checked by it\n"
    assert "# verify also expects: header X: 2\n" in answer.stdout
