"""Files of strangers: validating and planning them executes nothing, reaches nothing, writes nothing and ends soon.

What they say, and what their commands print, fools no terminal and no CI system.
"""

from __future__ import annotations

import os
import pty
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from runner.document import loads
from runner.reports.wording import harmless
from tests.conftest import ROOT, Runner

MEMORY = 320 << 20

# Fails, with the name of what was tried, whatever the program makes of exceptions.
GUARDED = """
import os, sys
from runner.cli import main

FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec",
             "os.posix_spawn", "os.fork", "os.forkpty", "os.mkdir", "os.remove", "os.rename", "os.symlink", "os.chmod")

def guard(event, arguments):
    writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in FORBIDDEN or writes:
        os.write(2, f"TRIED {event} {arguments}".encode())
        os._exit(99)

codes = []
sys.addaudithook(guard)
for name in sys.argv[1:]:
    for command in ("validate", "plan"):
        codes.append(main([command, name]))
print("CODES", *codes)
"""

NUMBERS = "[" + ",".join(map(str, range(99))) + "]"
LONG = "x" * 1000
EVIL = "\\e]0;title\\a\\e[2J\\e[31m\\u009b1A\\u202Egpj.exe\\r\\n::error::gotcha\\n##[group]x\\b\\u2028"

# Bombs for a parser, for CEL, for the checks; strange files and links are made by the fixture.
BOMBS = {
    "deep.yaml": "steps: " + "[" * 100_000,
    "aliases.yaml": "x-a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"x-{n}: &{n} [{','.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))
    + "steps: [{run: a}]",
    "large.yaml": "steps: [{run: " + "a" * (1 << 20) + "}]",
    "many_steps.yaml": "steps:\n" + "- run: a\n" * 2_000,
    "many_wrong_steps.yaml": "steps:\n" + "- rum: a\n  id: x\n" * 100,
    "many_expressions.yaml": "steps:\n- run: a\n  env: {A: '" + "${{ run.id }}" * 6_000 + "'}",
    "many_wrong_expressions.yaml": "steps:\n- run: a\n  env: {A: '" + "${{ rum.id }}" * 6_000 + "'}",
    "nested_expression.yaml": "steps: [{run: a, if: '" + "(" * 50_000 + "true" + ")" * 50_000 + "'}]",
    "unclosed_expressions.yaml": "steps: [{run: a, name: '" + '${{ "{' * 100_000 + "'}]",
    "nested_loops.yaml": "vars:\n"
    + "".join(f"  v{n}: '${{{{ {NUMBERS}.all(a, {NUMBERS}.all(b, {NUMBERS}.all(c, true))) }}}}'\n" for n in range(100))
    + "steps: [{run: a}]",
    "regular_expression.yaml": "vars: {a: \"${{ '" + "a" * 5000 + "!'.matches('^(a+)+$') }}\"}\nsteps: [{run: a}]",
    "long_key.yaml": "steps: [{run: a, " + "k" * 900_000 + ": 1}]",
    "pattern.yaml": "steps: [{verify: {url: 'http://x', matches: '" + "(a{1000}){1000}" + "'}}]",
}
GROWTH = {
    "doubled.yaml": "vars:\n  v0: '0123456789'\n"
    + "".join(f"  v{n}: '${{{{ vars.v{n - 1} }}}}${{{{ vars.v{n - 1} }}}}'\n" for n in range(1, 60))
    + "steps: [{run: a, env: {A: '${{ vars.v59 }}'}}]",
    "replaced.yaml": f"vars:\n  v: \"${{{{ '{LONG}'.replace('x', '{LONG}').replace('x', '{LONG}') }}}}\"\n"
    "steps: [{run: a, env: {A: '${{ vars.v }}'}}]",
}
OUTSIDE = {
    "parent.yaml": "steps: [{apply: ../../passwd}, {run: {command: a, dir: ..}}, {build: {image: a, context: /}}]",
    "absolute.yaml": "steps: [{apply: /etc/passwd}, {load: {archive: /etc/passwd}}]",
    "links.yaml": "steps: [{apply: link.yaml}, {delete: folder/passwd.yaml}, {apply: circle.yaml}]",
    "globs.yaml": "steps: [{apply: '../**/*.yaml'}, {apply: '/**/*.yaml'}, {apply: 'folder/*.yaml'}]",
    "circle_glob.yaml": "steps: [{apply: 'loops/**/*.yaml'}]",
    "fifo.yaml": "steps: [{apply: pipe.yaml}]",
    "device.yaml": "steps: [{apply: zero.yaml}]",
    "nul.yaml": 'steps: [{apply: "a\\0b.yaml"}]',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository of a stranger."""
    folder = tmp_path / "repository"
    (folder / ".git").mkdir(parents=True)
    for name, text in {**BOMBS, **GROWTH, **OUTSIDE, "good.yaml": "steps: [{run: a}]"}.items():
        (folder / name).write_text(text)
    (folder / "link.yaml").symlink_to("/etc/passwd")
    (folder / "folder").symlink_to("/etc")
    (folder / "circle.yaml").symlink_to("circle.yaml")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.yaml")
    for name in "abcdefgh":  # each leads to all of them: a walk that follows links never ends
        (folder / "loops" / name).parent.mkdir(exist_ok=True)
        (folder / "loops" / name).symlink_to(".")
    return folder


def test_nothing_is_executed_reached_or_written(folder: Path) -> None:
    """All of them in one process that may not: it ends within its memory and its time, with a message for each."""
    names = [*BOMBS, *OUTSIDE]
    before = sorted(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, *names],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )

    assert "TRIED" not in done.stderr
    assert "Traceback" not in done.stderr
    codes = done.stdout.splitlines()[-1].split()
    assert (codes[0], len(codes)) == ("CODES", 1 + 2 * len(names)), done.stderr[-2000:]
    harmless_ones = {"nested_loops.yaml", "regular_expression.yaml"}
    for index, name in enumerate(names):
        assert set(codes[1 + 2 * index : 3 + 2 * index]) == ({"0"} if name in harmless_ones else {"2"}), name
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", GROWTH)
def test_what_grows_without_end_is_stopped(folder: Path, name: str) -> None:
    """A plan computes values: one that needs more memory than there is for it is left out, or ends the plan."""
    done = subprocess.run(
        [sys.executable, "-m", "runner", "plan", name],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )

    if done.returncode:
        assert (done.returncode, done.stderr) == (2, f"runner: more than 2 GiB would be needed for {name}\n")
    else:  # one value was too large, and the memory was free again
        assert "${{ vars.v" in done.stdout or not done.stderr


def test_paths_lead_out_only_when_allowed(folder: Path, runner: Runner) -> None:
    """What is refused says how it is allowed; also for a path that an expression makes, just before the step."""
    (folder.parent / "pod.yaml").write_text("{apiVersion: v1, kind: Pod, metadata: {name: a}}")
    (folder / "w.yaml").write_text("steps: [{apply: ../pod.yaml}]")
    (folder / "late.yaml").write_text("inputs: {where: ..}\nsteps: [{run: {command: ls, dir: '${{ inputs.where }}'}}]")
    refused, late = runner("validate", folder / "w.yaml"), runner("run", folder / "late.yaml")
    planned = runner("plan", folder / "late.yaml")

    assert refused.returncode == 2
    assert "pod.yaml is outside of the repository of the workflow" in refused.stderr
    assert "or say --allow-outside" in refused.stderr
    assert late.returncode == 1
    assert ".. is outside of the repository of the workflow" in late.stdout + late.stderr
    assert "! .. is outside of the repository of the workflow" in planned.stdout
    assert runner("validate", "--allow-outside", folder / "w.yaml").returncode == 0
    assert runner("run", "--allow-outside", folder / "late.yaml").returncode == 0


HOSTILE = f"""
name: "{EVIL}"
description: "{EVIL}"
steps:
  - name: "{EVIL}"
    run: |
      printf '\\033]0;title\\007\\033[2J\\302\\2331A\\342\\200\\256txt\\r\\b hidden\\n'
      printf '::error::gotcha\\n  ##[group]x\\n##vso[a]b\\n'
    show: true
  - name: "fails {EVIL}"
    run: [bash, -c, "echo '::warning::x'; echo '##vso[task.x]' >&2; printf '\\033]52;c;aGk=\\007'; exit 3", "{EVIL}"]
"""
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
COMMANDS = re.compile(r"^\s*::|##\[|##vso\[", re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("run", "-v"), ("run", "-o", "json", "--log-format", "json"), ("plan",), ("plan", "--format", "sh")],
    ids=" ".join,
)
def test_no_output_fools_anybody(tmp_path: Path, runner: Runner, arguments: tuple[str, ...]) -> None:
    """No control character, no mark that turns text around, no command to GitHub's or Azure's runner is passed on."""
    (tmp_path / "w.yaml").write_text(HOSTILE)
    done = runner(*arguments, tmp_path / "w.yaml", env={"GITHUB_ACTIONS": "true", "LANG": "C.UTF-8"})

    assert done.returncode == (1 if arguments[0] == "run" else 0)
    for text in (done.stdout, done.stderr):
        assert RAW.findall(text) == []
        assert COMMANDS.findall(text) == []


def test_messages_about_files_fool_nobody(tmp_path: Path, runner: Runner) -> None:
    """Names of files, keys and values in messages of `validate`."""
    name = "a\x1b]0;x\x07\u202e::error::.yaml"
    (tmp_path / name).write_text(f'steps: [{{run: a, "{EVIL}": 1}}, {{apply: "{EVIL}.yaml"}}, {{wait: "{EVIL}"}}]')
    for file in (name, f"no {name}"):
        done = runner("validate", tmp_path / file, env={"GITHUB_ACTIONS": "true", "LANG": "C.UTF-8"})

        assert done.returncode == 2
        assert RAW.findall(done.stdout + done.stderr) == []
        assert COMMANDS.findall(done.stdout + done.stderr) == []


def test_live_view_lets_nothing_through(tmp_path: Path) -> None:
    """On a terminal only the view itself moves the cursor; nothing sets a title or the clipboard, or turns text."""
    (tmp_path / "w.yaml").write_text(HOSTILE)
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TERM": "xterm"}
    child = subprocess.Popen(
        [sys.executable, "-m", "runner", "run", str(tmp_path / "w.yaml")],
        env={**environment, "LANG": "C.UTF-8", "KUBECONFIG": str(tmp_path / "none")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            chunk = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    text = written.decode()

    assert child.wait(60) == 1
    assert "hidden" in text
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert not re.search("[\x80-\x9f\u202e\x07\x08]", text)


def test_planned_script_is_no_trap(tmp_path: Path, runner: Runner) -> None:
    """What a stranger wrote stays text: nothing in a name or a value becomes a command of the script."""
    trap = tmp_path / "trap"
    (tmp_path / "w.yaml").write_text(
        f'name: "x\\ntouch {trap}"\n'
        f'steps:\n  - name: "y\\ntouch {trap} $(touch {trap})"\n'
        f'    run: [echo, "$(touch {trap})", "`touch {trap}`", "\'; touch {trap}; \'", "\\e[31m"]\n'
        f'    env: {{A: "$(touch {trap})\'; touch {trap} #"}}\n'
    )
    script = runner("plan", "--format", "sh", tmp_path / "w.yaml").stdout
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"$(touch {trap}) `touch {trap}` '; touch {trap}; ' \x1b[31m\n"
    assert not trap.exists()


def test_namespace_of_a_plan_is_no_trap(tmp_path: Path, runner: Runner) -> None:
    (tmp_path / "w.yaml").write_text("namespace: \"${{ '$(touch trap)' }}\"\nsteps: [{wait: pod/a}]")
    done = runner("plan", "--format", "sh", tmp_path / "w.yaml")

    assert done.returncode == 2
    assert "cannot be a namespace" in done.stderr


def test_corpus_is_hostile() -> None:
    """What the tests above look for is there."""
    (name,) = loads(f'a: "{EVIL}"', "x").data.values()

    assert RAW.search(name)
    assert COMMANDS.search(name)
    assert not RAW.search(harmless(name))
