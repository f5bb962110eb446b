"""A secret in every place that can hold one without a cluster; every output is searched for every form of it."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import runner.commands.validate
from runner.cli import main
from tests.conftest import Completed, Runner
from tests.forms import FORMS

# One for each place; with signs that JSON, URLs and shells escape.
SECRETS = {
    "input": "In'put\"Secret<1>",
    "value": "Value\\Secret/&2",
    "token": "Own$Environ=Token3",
    "step": "Step%Env Secret4",
    "url": "UrlPassw0rd-5",
    "lines": "first-line-of-6\nsecond/line-of-6",
}
WORKFLOW = """
inputs:
  given: {secret: true, env: GIVEN}
  read: {type: map, secret: true}
  lines: {secret: true, env: LINES_INPUT}
vars:
  login: "admin:${{ inputs.given }}"
steps:
  - id: echoes
    name: "with ${{ inputs.given }}"
    run: [cat]
    env:
      PASSWORD: STEP
      ANY: "${{ vars.login }}"
    show: true
  - id: prints
    run: {command: [python3, print.py], stdin: "${{ inputs.given }}"}
    env:
      A: "${{ inputs.given }}"
      B: "${{ inputs.read.inner }}"
      C_PASSWORD: "${{ env.SERVICE_TOKEN }}"
      D_PASSWORD: "Step%Env Secret4"
      E: "${{ inputs.lines }}"
    show: true
  - run: [cat, "${{ steps.prints.outputs.stdout }}"]
    continue_on_error: true
  - run: {command: 'echo "$A"', expect: {stdout: {equals: "${{ inputs.read.inner }}"}}}
    env: {A: "${{ inputs.given }}"}
    continue_on_error: true
  - verify:
      url: "http://127.0.0.1:PORT/${{ inputs.given.size() }}?token=${{ env.SERVICE_TOKEN }}"
      request: {headers: {Authorization: "Bearer ${{ inputs.given }}"}, body: "${{ inputs.read.inner }}"}
      contains: "${{ inputs.given }} is not there"
    timeout: 300ms
    continue_on_error: true
  - run: 'python3 print.py >&2; exit CODE'
    env: {A: "${{ inputs.given }}", B: "${{ inputs.read.inner }}", E: "${{ inputs.lines }}"}
"""


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self) -> None:
        body = f"{self.path} {self.headers}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name that the library calls

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def planted(tmp_path: Path, port: int) -> Path:
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "print.py").write_text(
        "import os, sys\nsys.path.insert(0, os.environ['TESTS'])\nfrom tests.forms import FORMS\n"
        "for name in ('A', 'B', 'C_PASSWORD', 'D_PASSWORD', 'E', 'PROXY'):\n"
        "    for form in FORMS.values():\n"
        "        print(name, form(os.environ.get(name, '')))\n"
    )
    (folder / "values.yaml").write_text(json.dumps({"read": {"inner": SECRETS["value"]}}))
    text = (
        WORKFLOW.replace("PORT", str(port))
        .replace("python3", sys.executable)
        .replace(": STEP", f": {json.dumps(SECRETS['step'])}")
    )
    for code in (0, 1):
        (folder / f"exit{code}.yaml").write_text(text.replace("CODE", str(code)))
    return folder


def run(runner: Runner, folder: Path, file: str, *arguments: str) -> Completed:
    return runner(
        "run",
        folder / file,
        "--values",
        folder / "values.yaml",
        "--events",
        folder.parent / "events.jsonl",
        *arguments,
        env={
            "GIVEN": SECRETS["input"],
            "LINES_INPUT": SECRETS["lines"],
            "SERVICE_TOKEN": SECRETS["token"],
            "PROXY": f"http://me:{SECRETS['url']}@proxy.example:3128",
            "TESTS": str(Path(__file__).parents[1]),
            "LC_ALL": "C.UTF-8",
        },
    )


def found(text: str) -> list[str]:
    """The forms of secrets that stand in a text."""
    lines = {f"{name}[{n}]": line for name, value in SECRETS.items() for n, line in enumerate(value.splitlines())}
    return [
        f"{name} as {form}: {spell(value)}"
        for name, value in lines.items()
        for form, spell in FORMS.items()
        if form != "colours" and spell(value) in text
    ]


@pytest.mark.parametrize("arguments", [("-v",), ("-o", "json", "--log-format", "json", "-v")], ids=" ".join)
@pytest.mark.parametrize("code", [0, 1])
def test_no_sink_has_a_secret(
    planted: Path, runner: Runner, tmp_path: Path, code: int, arguments: tuple[str, ...]
) -> None:
    """Terminal, log, report, JSON, events and the run's folder, of a run that passes and of one that fails."""
    done = run(runner, planted, f"exit{code}.yaml", *arguments)
    kept = {str(path): path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file()}
    events = (tmp_path / "events.jsonl").read_text()

    assert done.returncode == code, done.stdout + done.stderr
    sinks = {"stdout": done.stdout, "stderr": done.stderr, "events": events, **kept}
    for name, text in sinks.items():
        assert found(text) == [], name
    assert "***" in done.stderr
    assert events.count("***") > len(FORMS)


def test_plan_has_no_secret(planted: Path, runner: Runner) -> None:
    """Nor a script that is made of it: there, secrets are variables, and what only runner computes is no success."""
    common = ("--values", planted / "values.yaml")
    env = {"GIVEN": SECRETS["input"], "LINES_INPUT": SECRETS["lines"], "SERVICE_TOKEN": SECRETS["token"]}
    table = runner("plan", planted / "exit0.yaml", *common, env=env)
    script = runner("plan", "--format", "sh", planted / "exit0.yaml", *common, env=env)

    assert (table.returncode, script.returncode) == (0, 1), table.stderr + script.stderr
    assert found(table.stdout + table.stderr + script.stdout + script.stderr) == []
    assert "SERVICE_TOKEN" in script.stdout
    assert 'D_PASSWORD="$D_PASSWORD"' in script.stdout


def test_what_is_computed_from_a_secret_is_not_seen(tmp_path: Path, runner: Runner) -> None:
    """Parts and other spellings of it, in names, variables and what children print; its length is no secret."""
    (tmp_path / "w.yaml").write_text(
        "inputs: {token: {secret: true, env: MY_TOKEN}}\n"
        "steps:\n"
        "  - name: part ${{ inputs.token.substring(0, 12) }}\n"
        "    run: echo $A $B $C\n"
        "    env:\n"
        "      A: ${{ inputs.token.substring(0, 12) }}\n"
        "      B: ${{ inputs.token.upperAscii() }}\n"
        "      C: length ${{ inputs.token.size() }}\n"
        "    show: true\n"
    )
    done = runner("run", tmp_path / "w.yaml", "-v", env={"MY_TOKEN": "abcdefgh-ijkl-mnop"})

    assert done.returncode == 0, done.stderr
    assert "abcdefgh" not in (done.stdout + done.stderr).lower()
    assert "*** *** length 18" in done.stderr


LITERALS = """\
inputs: {pin: {secret: true, default: 98761234}}
steps:
  - verify: {url: "http://bob:inlineSecretVal9@127.0.0.1:1/"}
  - verify: {url: "https://t0ken-of-bob@127.0.0.1:1/"}
  - {run: env, env: {API_TOKEN: literalTok3n99}, tiimeout: 3}
  - apply: {manifest: {apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {pw: inl1neManifest}}, nope: 1}
  - apply: {manifest: {kind: Pod, spec: {containers: [{env: [{name: DB_PASSWORD, value: c0ntainerPw}]}]}}, nope: 1}
  - verify: {url: "http://localhost:1/", request: {auth: {bearer: b34rerLiteral}}, nope: 1}
  - verify: {url: "http://localhost:1/", request: {auth: {basic: {username: u, password: bas1cLiteral}}}, nope: 1}
  - {run: env, env: {API_TOKEN: "plain-${{ inputs.pin }}"}, nope: 1}
"""


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize("output", ["text", "json"])
def test_problems_quote_no_secret_of_the_file(tmp_path: Path, runner: Runner, command: str, output: str) -> None:
    """Secrets that are written out, also where the line is about something else; expressions stay readable."""
    (tmp_path / "w.yaml").write_text(LITERALS)
    done = runner(command, "w.yaml", "-o", output, cwd=tmp_path)
    shown = done.stdout + done.stderr
    secrets = (
        *("98761234", "inlineSecretVal9", "t0ken-of-bob", "literalTok3n99", "inl1neManifest"),
        *("c0ntainerPw", "b34rerLiteral", "bas1cLiteral"),
    )

    assert done.returncode == 2
    assert [secret for secret in secrets if secret in shown] == []
    assert "plain-${{ inputs.pin }}" in shown
    assert "bob:***@127.0.0.1" in shown


def test_caret_moves_with_what_it_marks(tmp_path: Path, runner: Runner) -> None:
    """A secret before it is shorter or longer than the stars; one at the edge of the excerpt is not cut in two."""
    secret = "5ecret" * 30
    (tmp_path / "w.yaml").write_text(f"steps:\n  - {{env: {{API_TOKEN: {secret}}}, nope: 1, run: x}}\n")
    done = runner("validate", "w.yaml", cwd=tmp_path)
    _, line, caret, *_ = done.stderr.splitlines()

    assert "w.yaml:2:206: error: `nope`" in done.stderr
    assert line[caret.index("^") :].startswith("nope: 1")
    assert "5ecret" not in done.stderr


def test_bug_tells_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last words of exit code 70 quote whatever an exception quotes."""

    def broken(_: object) -> int:
        raise ValueError(f"cannot use {SECRETS['token']!r} \x1b]0;title\x07")

    monkeypatch.setenv("SERVICE_TOKEN", SECRETS["token"])
    monkeypatch.setattr(runner.commands.validate, "run", broken)
    (tmp_path / "w.yaml").write_text("steps: [{run: a}]")
    code = main(["validate", str(tmp_path / "w.yaml")])
    err = capsys.readouterr().err

    assert code == 70
    assert "ValueError: cannot use '***'" in err
    assert found(err) == []
    assert "\x1b" not in err
    assert sys.exc_info() == (None, None, None)


def test_declared_secret_that_is_too_short(tmp_path: Path, runner: Runner) -> None:
    """It cannot be masked, so it is refused, and not shown."""
    (tmp_path / "w.yaml").write_text("inputs: {pin: {secret: true, env: PIN}}\nsteps: [{run: a}]")
    done = runner("run", tmp_path / "w.yaml", env={"PIN": "7q#"})

    assert done.returncode == 2
    assert "input `pin` is secret and shorter than 4 characters, which cannot be masked" in done.stderr
    assert "7q#" not in done.stderr
