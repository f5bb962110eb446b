"""The planned bash script: what it does as a run does, and what it says where it cannot."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.scripts import executed

Runner = Callable[..., subprocess.CompletedProcess[str]]
Kubectl = Callable[..., str]

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: shop, image: shop, imagePullPolicy: Never}]
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 5000}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
"""


def planned(runner: Runner, folder: Path, flow: str, *words: str, engine: str = "kubectl") -> tuple[str, int, str]:
    """(the script, which ShellCheck has read without a word; the exit code; what was said on stderr)."""
    (folder / "flow.yaml").write_text(textwrap.dedent(flow))
    answer = runner("plan", "--format", "sh", "--engine", engine, *words, "flow.yaml", cwd=folder)
    (folder / "plan.sh").write_text(answer.stdout)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, "plan.sh"], cwd=folder, capture_output=True, text=True, check=False)
    assert checked.stdout == ""
    return answer.stdout, answer.returncode, answer.stderr


def test_list_of_objects(runner: Runner, tmp_path: Path) -> None:
    """A list of maps goes to kubectl as each single one would; so do texts and maps that only a run knows."""
    flow = """\
        steps:
          - {id: made, run: cat made.json}
          - apply:
              manifest:
                - {apiVersion: v1, kind: ConfigMap, metadata: {name: a1}}
                - {apiVersion: v1, kind: ConfigMap, metadata: {name: a2}}
          - apply: {manifest: "${{ steps.made.outputs.stdout }}", wait: true}
          - apply: {manifest: {apiVersion: v1, kind: ConfigMapList, items: []}}
    """
    script, code, said = planned(runner, tmp_path, flow)
    table = runner("plan", "--engine", "kubectl", "flow.yaml", cwd=tmp_path).stdout

    assert (code, said) == (0, "")
    assert table.count("$ kubectl apply") == 2
    assert "$ kubectl apply --request-timeout=35s --filename=-  <<< 2 objects" in table
    assert script.count('\nremember --filename=- <<<"$steps_1_manifest"\n') == 1
    assert '\nsteps_2_manifest="$made_stdout"\n' in script
    assert '\nawait_ready 60 --filename=- <<<"$steps_2_manifest"  # observe\n' in script


def test_steps_that_cannot_be_planned(runner: Runner, tmp_path: Path) -> None:
    """Said when the script is made and when it gets there, both times on stderr; the answer is no success. `finally`
    goes on with its other steps.
    """
    flow = """\
        steps:
          - run: {command: touch made.yaml, generates: [made.yaml]}
          - name: Apply it
            apply: {file: made.yaml, images: {app: "app:2"}}
          - run: echo never
        finally:
          - name: Once more
            apply: {file: made.yaml, images: {app: "app:2"}}
          - run: echo still
    """
    _, code, said = planned(runner, tmp_path, flow)
    table = runner("plan", "--engine", "kubectl", "flow.yaml", cwd=tmp_path)
    script = executed(tmp_path)

    why = "cannot be planned: its images are set in files that are not there yet"
    assert said == (
        f"runner: flow.yaml:4: Apply it: {why}; the script stops there\n"
        f"runner: flow.yaml:8: Once more: {why}; `finally` goes on, and the script fails\n"
    )
    assert (code, table.returncode, script.returncode) == (1, 1, 1)
    assert (script.stdout, script.stderr) == (
        "still\n",
        f"flow.yaml:4: Apply it: {why}\nflow.yaml:8: Once more: {why}\n",
    )


def test_values_that_only_runner_computes(runner: Runner, tmp_path: Path) -> None:
    """Named when the script is made. Nothing starts without them, and who exports them can go on."""
    flow = """\
        steps:
          - run: touch started
          - {id: look, run: "echo '{}'"}
          - name: Use it
            run: echo "$CODE $X"
            env: {CODE: "${{ steps.look.outputs.code }}", X: "${{ steps.look.outputs.json['$(touch harm)'] }}"}
    """
    _, code, said = planned(runner, tmp_path, flow)
    alone = executed(tmp_path)
    started = (tmp_path / "started").exists()
    helped = executed(tmp_path, {"look_code": "7", "value_2": "x"})

    needs = "runner: flow.yaml:5: Use it: only runner computes ${{ steps.look.outputs."
    assert said == (
        f"{needs}code }}}}; the script needs the variable look_code for it\n"
        f"{needs}json['$(touch harm)'] }}}}; the script needs the variable value_2 for it\n"
    )
    assert (code, alone.returncode, alone.stdout, started) == (1, 1, "", False)
    assert alone.stderr.startswith("look_code is not set: only runner computes steps.look.outputs.code")
    assert (helped.returncode, helped.stdout) == (0, "{}\n7 x\n")
    assert not (tmp_path / "harm").exists()


def test_what_a_script_does_less(runner: Runner, tmp_path: Path) -> None:
    """A line for each; only a step that is left out is no success."""
    flow = """\
        steps:
          - run: {command: "true", expect: {stdout: {contains: x}}}
          - wait: {target: {kind: pod, selector: a=b}, count: 2}
          - {id: a, run: "true"}
          - {name: Maybe, run: "true", if: steps.a.outputs.code == 0}
    """
    _, code, said = planned(runner, tmp_path, flow)
    _, without, missing = planned(
        runner, tmp_path, f"{textwrap.dedent(flow)}  - wait: {{target: pod/a, that: '1 == 1'}}"
    )

    assert (code, without) == (0, 1)
    assert said == textwrap.dedent("""\
        runner: flow.yaml:2: run true: `expect.stdout` is not checked by the script
        runner: flow.yaml:3: wait pod a=b: the script waits for all, not for `count: 2`
        runner: flow.yaml:5: Maybe: runs in any case; if_steps_3=false skips it (if: steps.a.outputs.code == 0)
    """)
    assert missing == said + (
        "runner: flow.yaml:6: wait pod/a: `that` is CEL, which kubectl does not know; the script does not wait\n"
    )


@pytest.mark.parametrize(("command", "code"), [("exit 3", 0), ("exit 0", 1), ("exit 4", 1)])
def test_expected_exit_code(command: str, code: int, runner: Runner, tmp_path: Path) -> None:
    """The code that is expected, and no other; it ends the attempts."""
    flow = f"""\
        steps:
          - run: {{command: "echo once; {command}", expect: {{code: 3}}}}
            retry: {{attempts: 2, interval: 10ms}}
    """
    planned(runner, tmp_path, flow)

    script = executed(tmp_path)

    assert (script.returncode, script.stdout.count("once")) == (code, 2 if code else 1)


def test_each_attempt_reads_its_input_from_the_beginning(runner: Runner, tmp_path: Path) -> None:
    flow = """\
        steps:
          - run: {command: 'cat; test -e second || { touch second; exit 1; }', stdin: "hello\\n"}
            retry: {attempts: 2, interval: 10ms}
            env: {A: b}
    """
    planned(runner, tmp_path, flow)

    assert executed(tmp_path).stdout.split() == ["hello", "hello"]


def test_failure_in_finally_is_told(runner: Runner, tmp_path: Path) -> None:
    """As a run does: the other steps of `finally` run, and the answer is 1."""
    planned(runner, tmp_path, "steps: [{run: 'true'}]\nfinally: [{run: 'false'}, {run: echo after}]\n")

    script = executed(tmp_path)

    assert (script.returncode, script.stdout) == (1, "after\n")


def test_outputs_of_a_forward(runner: Runner, tmp_path: Path) -> None:
    """All of them are variables, also a port by the name of the target's; a URL with such a thing in it is planned."""
    flow = """\
        steps:
          - {id: web, forward: {target: pod/app, ports: ["8081:http-alt", ":80"]}}
          - verify: {url: "http://${{ steps.web.outputs.host }}:${{ steps.web.outputs.ports['80'] }}/"}
          - verify: {tcp: "127.0.0.1:${{ steps.web.outputs.ports['http-alt'] }}"}
    """
    script, code, said = planned(runner, tmp_path, flow)

    assert (code, said) == (0, "")
    assert "\nweb_ports_http_alt=8081\n" in script
    assert '\nweb_ports_80="$web_port_2"\n' in script
    assert re.search(r"curl \S*\$web_host\S*:\S*\$web_ports_80\S*/", script)


def test_name_of_a_server_that_only_a_run_knows(runner: Runner, tmp_path: Path) -> None:
    """A step that cannot be planned, not a bug in runner."""
    flow = """\
        steps:
          - {id: web, forward: {target: pod/app, ports: ":443"}}
          - verify: {url: "https://127.0.0.1:${{ steps.web.outputs.port }}/", tls: {server_name: web.test}}
    """
    _, code, said = planned(runner, tmp_path, flow)

    assert code == 1
    assert "cannot be planned: `tls.server_name` with a URL of which only a run knows the parts" in said


def test_ready_as_a_run_means_it(runner: Runner, tmp_path: Path) -> None:
    """Of what has no condition Ready and no endpoints nothing is awaited; a condition that is asked for must come."""
    flow = """\
        steps:
          - wait: [widget.plan.test/one, service/web, service/ext]
            timeout: 9s
          - wait: {target: widget.plan.test/one, until: condition=Ready}
            timeout: 9s
          - wait: pod/app
            timeout: 9s
    """
    script, *_ = planned(runner, tmp_path, flow)
    observed = [line.removesuffix("  # observe") for line in script.splitlines() if line.endswith("  # observe")]

    assert "settled 9 widget.plan.test/one" in observed
    assert [line for line in observed if line.startswith("answered ")] == ["answered 9 web,ext"]
    assert "kubectl wait widget.plan.test/one --for=condition=Ready --timeout=9s" in observed
    assert "kubectl wait pod/app --for=condition=Ready --timeout=9s" in observed


@pytest.mark.e2e
@pytest.mark.usefixtures("app_image")
def test_kustomization_with_images_is_waited_for(
    runner: Runner, cluster_env: dict[str, str], namespace: str, kubectl: Kubectl, tmp_path: Path
) -> None:
    """On a real cluster: the script waits for each object as a run does, and for what only a run knows; afterwards
    nothing is left.
    """
    (tmp_path / "kz").mkdir()
    (tmp_path / "kz/kustomization.yaml").write_text("resources: [all.yaml]\nnamePrefix: x-\n")
    (tmp_path / "kz/all.yaml").write_text(DEPLOYMENT)
    flow = """\
        steps:
          - apply:
              manifest:
                - {apiVersion: v1, kind: ConfigMap, metadata: {name: a1}}
                - {apiVersion: v1, kind: ConfigMap, metadata: {name: a2}}
          - apply: {kustomize: kz, images: {shop: "pythonapp:latest"}, wait: true}
          - apply:
              manifest:
                apiVersion: v1
                kind: Service
                metadata: {name: ext}
                spec: {type: ExternalName, externalName: example.com}
              wait: true
          - run: test "$(kubectl get deployment/x-shop -o jsonpath='{.status.readyReplicas}')" = 1
          - run: test "$(kubectl config view --minify -o jsonpath='{..namespace}')" = "$HERE"
            env: {HERE: "${{ run.namespace }}"}
    """
    _, code, said = planned(runner, tmp_path, flow, "-n", namespace)

    script = executed(tmp_path, cluster_env)

    assert (code, said, script.returncode) == (0, "", 0), script.stdout + script.stderr
    assert "configmap/a2 created" in script.stdout
    assert "successfully rolled out" in script.stdout
    left = kubectl("get", "deployments,services,configmaps", "-n", namespace, "-o", "name")
    assert left == "configmap/kube-root-ca.crt\n"
