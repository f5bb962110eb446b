"""Which commands of `run` fail without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from runner.steps.clusterless import Question, question

GET = Question("kubectl get", certain=True)
MAYBE = Question("kubectl get", certain=False)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("kubectl get pod", GET),
        (["kubectl", "get", "pod"], GET),
        ("# look\n\nset -x\nkubectl \\\n  get pod | grep web 2>&1", GET),
        ("kubectl --namespace=demo -v 6 -n get get pod", GET),
        ("kubectl --context kind-kind get pod", GET),
        ("helm upgrade --install web ./chart", Question("helm upgrade", certain=True)),
        ("kubectl version", Question("kubectl version", certain=True)),
        ("kubectl get pod || true", MAYBE),
        ("kubectl get pod && echo there", MAYBE),
        ("kubectl get pod &\nwait", MAYBE),
        ("if test -e x; then\n  kubectl get pod\nfi", MAYBE),
        ("test -e x || exit 0\nkubectl get pod", MAYBE),
        ("cat >look.sh <<END\nkubectl get pod\nEND", MAYBE),
        ("look() {\n  kubectl get pod\n}", MAYBE),
        ("set +e\nkubectl get pod", MAYBE),
        ("echo 'it is", None),
        ("echo kubectl get pod", None),
        ("kubectl", None),
        ("kubectl kustomize overlay", None),
        ("kubectl config get-contexts", None),
        ("kubectl version --client", None),
        ("kubectl create deployment web --image=web --dry-run=client -o yaml", None),
        ("helm template ./chart", None),
        ("helm repo list", None),
        ("KUBECONFIG=mine kubectl get pod", None),
        ("export KUBECONFIG=mine\nkubectl get pod", None),
        (["kubectl", "--kubeconfig=mine", "get", "pod"], None),
        (["kubectl-look", "get"], None),
    ],
)
def test_question(command: Any, expected: Question | None) -> None:
    assert question({"command": command}, {}) == expected


def test_a_cluster_of_its_own_by_the_environment() -> None:
    assert question({"command": "kubectl get pod"}, {"KUBECONFIG": "mine"}) is None


def test_a_failure_that_is_expected() -> None:
    assert question({"command": "kubectl get pod", "expect": {"code": 1}}, {}) == MAYBE
