"""The command line: what is understood, where output goes, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import runner as package
from runner import cli
from runner.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
Completed = subprocess.CompletedProcess[str]
Runner = Callable[..., Completed]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with workflows that need no cluster, and one that does; no cluster and a fresh state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    folder = tmp_path / "flows"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "ok.yaml").write_text("inputs: {tag: dev}\nsteps: [{run: 'true'}, {run: 'true'}]\n")
    (folder / "fails.yaml").write_text("steps: [{run: exit 3}]\n")
    (folder / "waits.yaml").write_text("steps: [{wait: pod/a}]\n")
    (folder / "bad.yaml").write_text("steps: [{rnu: x}]\nname: 1\n")
    return folder


def typed(value: object) -> str:
    """The name of a case: the arguments as typed."""
    return " ".join(value) if isinstance(value, list) else ""


def run(*arguments: str) -> int:
    """The exit code, also where argparse leaves."""
    try:
        return main(arguments)
    except SystemExit as left:
        return int(left.code or 0)


# -- version and help -----------------------------------------------------------------------------------------------


def test_version_is_that_of_the_project(capsys: Captured) -> None:
    """One number, in pyproject.toml and in the package, which does not read it at start."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == package.__version__
    assert run("--version") == 0
    assert capsys.readouterr() == (f"runner {package.__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag: str, capsys: Captured) -> None:
    """On stdout: what it is, every command, examples and the exit codes."""
    assert run(flag) == 0
    out, err = capsys.readouterr()

    assert err == ""
    assert "leaves nothing behind" in " ".join(out.split())
    assert all(f"    {command} " in out for command in COMMANDS)
    assert "runner workflows/pod.yaml " in out
    assert "0 passed, 1 a step failed, 2 usage or invalid workflow, 3 cannot start, 4 deadline reached" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, capsys: Captured) -> None:
    """Each command has its own; every option in it is explained."""
    assert run(command, "--help") == 0
    out, err = capsys.readouterr()

    assert (err, out.startswith(f"usage: runner {command} [-h]")) == ("", True)
    _, parsers = cli._parsers()
    assert all(action.help for action in parsers[command]._actions)


def test_no_arguments(capsys: Captured) -> None:
    """Nothing to do is a usage error, and shows what can be asked for."""
    assert run() == 2
    out, err = capsys.readouterr()
    assert "usage: runner [-h] [--version] COMMAND ..." in out + err


def test_module_is_the_program(runner: Runner) -> None:
    """`python -m runner`."""
    answer = runner("--version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"runner {package.__version__}\n", "")


# -- which files ----------------------------------------------------------------------------------------------------


def test_file_alone_is_run(folder: Path, capsys: Captured) -> None:
    """`runner FILE` is `runner run FILE`, options before or behind it."""
    for arguments in (["ok.yaml"], ["run", "ok.yaml"], ["-o", "json", "ok.yaml"], ["ok.yaml", "-o", "json"]):
        assert run(*arguments) == 0
        out, _ = capsys.readouterr()
        assert "ok" in out
    assert len(list((folder.parent / "state/runner/runs").iterdir())) == 4


def test_several_files_and_options_between_them(folder: Path, capsys: Captured) -> None:
    """All are run, in the order in which they were given."""
    assert run("run", "fails.yaml", "-o", "json", "ok.yaml") == 1
    report = json.loads(capsys.readouterr().out)

    assert [(item["name"], item["status"]) for item in report["workflows"]] == [("fails", "failure"), ("ok", "success")]


def test_folder_is_its_workflows(folder: Path, capsys: Captured) -> None:
    """Sorted by name; other files are left alone."""
    for name in ("bad.yaml", "waits.yaml"):
        (folder / name).unlink()
    (folder / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")

    assert run(".", "-o", "json") == 1
    assert [item["name"] for item in json.loads(capsys.readouterr().out)["workflows"]] == ["fails", "ok"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["okk.yaml"], "runner: there is no file okk.yaml\n  hint: did you mean ok.yaml?\n"),
        (["validate", "ok.yml"], "runner: there is no file ok.yml\n  hint: did you mean ok.yaml?\n"),
        (["validat", "ok.yaml"], "runner: there is no file validat\n  hint: did you mean validate?\n"),
        (["docter"], "runner: there is no file docter\n  hint: did you mean doctor?\n"),
        (["help"], "runner: there is no file help\n  hint: did you mean `runner --help`?\n"),
        (["version"], "runner: there is no file version\n  hint: did you mean `runner --version`?\n"),
        (["nowhere/x"], "runner: there is no file nowhere/x\n"),
        (["--set", "a=b", "none"], "runner: there is no file none\n"),
        (["ok.yaml", "--values", "no/v"], "runner: there is no file no/v (--values)\n"),
        (["ok.yaml", "--timeout", "5"], "runner: --timeout 5: write a length of time, such as 90s, 10m or 1h30m\n"),
    ],
    ids=typed,
)
def test_what_is_not_there(arguments: list[str], message: str, folder: Path, capsys: Captured) -> None:
    """Exit 2 and one sentence on stderr, with a suggestion where one is near; nothing is started."""
    assert run(*arguments) == 2
    assert capsys.readouterr() == ("", message)
    assert not (folder.parent / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate", "--outpt", "json", "ok.yaml"], "runner validate: error: unrecognized arguments: --outpt"),
        (["ok.yaml", "--keep-on"], "runner run: error: unrecognized arguments: --keep-on"),
        (["--nope"], "runner run: error: unrecognized arguments: --nope"),
        (["-V"], "runner run: error: unrecognized arguments: -V (did you mean --version?)"),
        (["--verson"], "runner run: error: unrecognized arguments: --verson (did you mean --version?)"),
        (["-nx", "--set=a=b", "-v"], "runner run: error: the following arguments are required: FILE"),
        (["validate"], "runner validate: error: the following arguments are required: FILE"),
        (["ok.yaml", "--set"], "runner run: error: argument --set: expected one argument"),
        (["ok.yaml", "-v", "-q"], "not allowed with argument"),
        (["plan", "ok.yaml", "--format", "html"], "argument --format: invalid choice: 'html'"),
        (["ok.yaml", "--engine", "docker"], "argument --engine: invalid choice: 'docker'"),
    ],
    ids=typed,
)
def test_wrong_options(arguments: list[str], message: str, folder: Path, capsys: Captured) -> None:
    """Exit 2; usage and the reason on stderr; options cannot be abbreviated."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()

    assert (out, err.startswith("usage: runner ")) == ("", True)
    assert message in err


def test_misspelt_option_gets_a_suggestion(folder: Path, capsys: Captured) -> None:
    """As files, commands and keys get one."""
    assert run("validate", "ok.yaml", "--outpt", "json") == 2
    assert "did you mean --output?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tga=x", "the workflow has no input `tga` (--set); did you mean `tag`?"),
        ("tag", "--set tag: write --set name=value"),
        ("=x", "the workflow has no input `` (--set); inputs: tag"),
    ],
)
def test_wrong_settings(setting: str, message: str, folder: Path, capsys: Captured) -> None:
    """Exit 2 before anything starts, in `run` and in `plan`."""
    for command in ("run", "plan"):
        assert run(command, "ok.yaml", "--set", setting) == 2
        assert capsys.readouterr() == ("", f"runner: {message}\n")
    assert not (folder.parent / "state").exists()


def test_several_wrong_settings_are_a_line_each(folder: Path, capsys: Captured) -> None:
    assert run("ok.yaml", "--set", "tga=x", "--set", "tag") == 2
    assert capsys.readouterr().err.splitlines() == [
        "runner: 2 problems with the inputs:",
        "  the workflow has no input `tga` (--set); did you mean `tag`?",
        "  --set tag: write --set name=value",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "runner: v.yaml must be a map of inputs: `name: value`\n"),
        ("tga: x\n", "runner: the workflow has no input `tga` (--values); did you mean `tag`?\n"),
        ("tag: 1\n", "runner: input `tag` from --values is not a string\n"),
        (
            "tag: yes\n",
            (
                "v.yaml:1:6: error: yes is true in YAML 1.1 and text in YAML 1.2\n    1 │ tag: yes\n      │      ^^^\n"
                '      = write true, or "yes" for the text\n\n1 problem in v.yaml; nothing was started\n'
            ),
        ),
    ],
)
def test_wrong_values_files(content: str, message: str, folder: Path, capsys: Captured) -> None:
    """A values file is YAML with the same guards, and typed by the declarations."""
    (folder / "v.yaml").write_text(content)

    assert run("plan", "ok.yaml", "--values", "v.yaml") == 2
    assert capsys.readouterr() == ("", message)


# -- exit codes and streams -----------------------------------------------------------------------------------------


def test_success_and_failure(folder: Path, capsys: Captured) -> None:
    """0 and 1; the log is on stderr, the report on stdout."""
    assert run("ok.yaml") == 0
    out, err = capsys.readouterr()
    assert "run started" in err
    assert "run started" not in out
    assert "ok" in out

    assert run("fails.yaml") == 1
    out, err = capsys.readouterr()
    assert "the command ended with exit code 3" in out
    assert "step failed" in err


def test_quiet_run_is_silent(folder: Path, capsys: Captured) -> None:
    """A run that passes says nothing; one that fails says everything."""
    assert run("-q", "ok.yaml") == 0
    assert capsys.readouterr() == ("", "")
    assert run("-q", "fails.yaml") == 1
    assert "the command ended with exit code 3" in capsys.readouterr().out


def test_invalid_workflow(folder: Path, capsys: Captured) -> None:
    """2; every problem on stderr, nothing on stdout, nothing started."""
    assert run("bad.yaml", "ok.yaml") == 2
    out, err = capsys.readouterr()

    assert out == ""
    assert "bad.yaml:1:10: error: `rnu` is not a key of a step\n" in err
    assert "bad.yaml:2:7: error: `name` must be a string, not the number 1\n" in err
    assert err.endswith("2 problems in bad.yaml; nothing was started\n")
    assert not (folder.parent / "state").exists()


def test_no_cluster(folder: Path, capsys: Captured) -> None:
    """3, and what to do about it."""
    assert run("waits.yaml", "--engine", "kubectl") == 3
    assert capsys.readouterr() == (
        "",
        (
            "runner: there is no cluster: no kubeconfig has a current context (looked for in /dev/null)\n"
            "  try: start one (kind create cluster), name one with --context, or use --engine podman\n"
        ),
    )


def test_deadline(folder: Path, capsys: Captured) -> None:
    """4 when the run's deadline ends it."""
    (folder / "long.yaml").write_text("steps: [{run: exec sleep 60}]\n")

    assert run("long.yaml", "--timeout", "200ms", "-q") == 4


def test_bug(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """70 with the traceback and a request to report it: only for what nobody foresaw."""
    from runner.commands import validate

    def broken(options: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(validate, "run", broken)
    assert run("validate", "ok.yaml") == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith(
        f"runner: this is a bug in runner {package.__version__}; please report it with the lines above\n"
    )


def test_interrupted_before_anything_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """128 + 2, without a traceback."""
    from runner.commands import validate

    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(validate, "run", interrupted)
    assert run("validate", "ok.yaml") == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "code", "status", "error"),
    [
        (["ok.yaml"], 0, "success", ""),
        (["fails.yaml"], 1, "failure", ""),
        (["bad.yaml"], 2, "invalid", ""),
        (["none.yaml"], 2, "error", "there is no file none.yaml"),
        (["ok.yaml", "--set", "x=1"], 2, "error", "the workflow has no input `x` (--set); inputs: tag"),
        (
            ["waits.yaml", "--engine", "kubectl"],
            3,
            "error",
            "there is no cluster: no kubeconfig has a current context (looked for in /dev/null)",
        ),
        (["waits.yaml", "--context", "nope"], 3, "error", "there is no context nope in any kubeconfig"),
    ],
    ids=typed,
)
def test_json_on_stdout_whatever_happens(
    arguments: list[str], code: int, status: str, error: str, folder: Path, capsys: Captured
) -> None:
    """`-o json` answers with one object of the same shape, and its exit code."""
    assert run("run", "-o", "json", *arguments) == code
    report = json.loads(capsys.readouterr().out)

    assert (report["exit_code"], report["status"], report["error"]) == (code, status, error)
    assert {"schema", "workflows", "problems", "seconds", "hint"} <= report.keys()
    assert bool(report["problems"]) == (status == "invalid")


# -- streams that do not take it ------------------------------------------------------------------------------------


def closed(*arguments: str, folder: Path) -> Completed:
    """The program, with nobody who reads its stdout."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [sys.executable, "-m", "runner", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    "arguments",
    [
        ["schema"],
        ["schema", "--reference"],
        ["validate", "ok.yaml"],
        ["plan", "ok.yaml"],
        ["plan", "--format", "sh", "ok.yaml"],
        ["-q", "-o", "json", "ok.yaml"],
        ["validate", "-o", "json", "bad.yaml"],
        ["--help"],
        ["--version"],
    ],
    ids=typed,
)
def test_nobody_reads(arguments: list[str], folder: Path) -> None:
    """`| head` is no reason for a traceback."""
    answer = closed(*arguments, folder=folder)

    assert answer.stderr == ""
    assert answer.returncode in (0, 1, 2)


def test_run_goes_on_when_nobody_reads(folder: Path) -> None:
    """A run ends with its own code, whether its report is read or not."""
    assert closed("ok.yaml", folder=folder).returncode == 0
    assert closed("fails.yaml", folder=folder).returncode == 1


def test_head(folder: Path) -> None:
    """As a person types it."""
    script = f"'{sys.executable}' -m runner schema | head -n 1"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, timeout=60, check=False)

    assert (answer.stdout, answer.stderr) == ("{\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_full_disk(folder: Path) -> None:
    """`runner schema > file` on a full disk is a sentence, not a bug."""
    with Path("/dev/full").open("w") as full:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-m", "runner", "schema"]
        answer = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, env=env, timeout=60, check=False)

    assert "Traceback" not in answer.stderr
    assert answer.returncode not in (0, 70)


def test_one_log_says_everything_once(tmp_path: Path) -> None:
    """Where stdout and stderr are one log, as in CI, the output of a failed step is in it once: in the report."""
    (tmp_path / "flow.yaml").write_text("steps: [{run: 'echo sad news >&2; exit 1'}]")
    log = subprocess.run(
        [sys.executable, "-m", "runner", "flow.yaml"],
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "KUBECONFIG": "none", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert log.returncode == 1
    assert log.stdout.count("│ sad news") == 1
    assert "step failed" in log.stdout


def test_a_traceback_of_a_thread_is_masked() -> None:
    """A thread's exception passes by every `except` of the command line."""
    script = (
        "import sys, threading\n"
        "from runner import cli, masking\n"
        "def body():\n    raise ValueError('it was s3cr3t-value')\n"
        "def dispatch(options):\n"
        "    masking.hide(['s3cr3t-value'])\n"
        "    thread = threading.Thread(target=body); thread.start(); thread.join()\n"
        "    return 0\n"
        "cli._dispatch = dispatch\n"
        "sys.argv[1:] = ['doctor']\n"
        "sys.exit(cli.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "ValueError: it was ***" in done.stderr
    assert "s3cr3t" not in done.stderr
