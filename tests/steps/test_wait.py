"""`wait`: the line it stands for, what is checked before, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from runner.cluster import waiting
from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Ref, Selection
from runner.deadline import Deadline
from runner.errors import Expired, StepFailed, TimedOut
from runner.expressions import EvaluationError
from runner.steps import wait
from runner.steps.kind import Fault, Files, Scene


def args(data: dict[str, Any]) -> wait.Args:
    return msgspec.convert(data, wait.Args)


def scene(namespace: str = "demo", timeout: float = 120) -> Scene:
    return Scene(KubectlDialect(), namespace, Path("/flows"), timeout=timeout)


def faults(data: dict[str, Any]) -> list[Fault]:
    return list(wait.check(data, Files(Path("/flows"), Path("/flows"))))


# -- the line it stands for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"target": "pod/a"}, "kubectl wait pod/a --namespace=demo --for=condition=Ready --timeout=120s"),
        ({"target": "deployment/a"}, "kubectl rollout status deployment/a --namespace=demo --timeout=120s"),
        (
            {"target": "deployment/a", "until": "condition=Available"},
            "kubectl wait deployment/a --namespace=demo --for=condition=Available --timeout=120s",
        ),
        (
            {"target": "job/a", "until": "complete"},
            "kubectl wait job/a --namespace=demo --for=condition=Complete --timeout=120s",
        ),
        (
            {"target": "ing/a"},
            "kubectl wait ing/a --namespace=demo '--for=jsonpath={.status.loadBalancer.ingress}' --timeout=120s",
        ),
        ({"target": "configmap/a"}, "kubectl wait configmap/a --namespace=demo --for=create --timeout=120s"),
        ({"target": "widget/a"}, "kubectl wait widget/a --namespace=demo --for=condition=Ready --timeout=120s"),
        ({"target": "pod/a", "until": "deleted"}, "kubectl wait pod/a --namespace=demo --for=delete --timeout=120s"),
        ({"target": "pod/a", "until": "exists"}, "kubectl wait pod/a --namespace=demo --for=create --timeout=120s"),
        (
            {"target": "pod/a", "until": "condition=Ready=false"},
            "kubectl wait pod/a --namespace=demo --for=condition=Ready=false --timeout=120s",
        ),
        (
            {"target": {"kind": "pod", "selector": "app=x"}},
            "kubectl wait pod --selector=app=x --namespace=demo --for=condition=Ready --timeout=120s",
        ),
        (
            {"target": {"kind": "pod", "name": "a", "namespace": "other"}},
            "kubectl wait pod/a --namespace=other --for=condition=Ready --timeout=120s",
        ),
        (
            {"target": "pod/a", "that": "object.spec.x == 1"},
            "# wait until this holds (CEL over the object): object.spec.x == 1",
        ),
    ],
)
def test_line_of_the_plan(data: dict[str, Any], line: str) -> None:
    """As a person would type it; CEL has no such line and is shown as it is."""
    assert wait.equivalent(args(data), scene()) == (line,)
    assert wait.commands(args(data), scene()) == ()


def test_one_line_for_each_kind_of_object() -> None:
    """Objects of the same kind are waited for together; no namespace, no flag."""
    lines = wait.equivalent(args({"target": ["pod/a", "svc/x", "pod/b"]}), scene("", 7))

    assert lines[0] == "kubectl wait pod/a pod/b --for=condition=Ready --timeout=7s"
    assert lines[1] == (
        "kubectl wait endpointslice '--selector=kubernetes.io/service-name in (x)' "
        "'--for=jsonpath={.endpoints[0].conditions.ready}=true' --timeout=7s"
    )


def test_titles() -> None:
    """What is waited for."""
    assert wait.title({"target": "pod/a"}) == "pod/a"
    assert wait.title({"target": ["pod/a", "pod/b"]}) == "pod/a, pod/b"
    assert wait.title({"target": {"kind": "pod", "selector": "app=x"}}) == "pod app=x"
    assert wait.needs_cluster({"target": "pod/a"}) is True


# -- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {"target": "pod/a"},
        {"target": "deployments.apps/a"},
        {"target": ["pod/a", "${{ inputs.b }}"]},
        {"target": {"kind": "pod", "name": "a"}},
        {"target": "pod/a", "tolerate": {"Unschedulable": "5m"}},
        {"target": {"kind": "pod", "selector": "a=b"}, "that": "true"},
    ],
)
def test_nothing_is_wrong(data: dict[str, Any]) -> None:
    """References, expressions, maps."""
    assert faults(data) == []


HINT = "write kind/name, as in pod/pythonapp"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {"target": ["pod/a", "pod/b"], "count": 3},
            Fault(("count",), "`count: 3` cannot be reached with 2 named", "name more, or use a selector"),
        ),
        ({"target": "pod"}, Fault(("target",), "'pod' is not a reference to an object", HINT)),
        ({"target": "pod a"}, Fault(("target",), "'pod a' is not a reference to an object", HINT)),
        ({"target": "pod/"}, Fault(("target",), "'pod/' is not a reference to an object", HINT)),
        ({"target": "a/b/c"}, Fault(("target",), "'a/b/c' is not a reference to an object", HINT)),
        ({"target": ["pod/a", "b"]}, Fault(("target", 1), "'b' is not a reference to an object", HINT)),
        ({"target": "app/pod.yaml"}, Fault(("target",), "`wait` takes objects, not the file app/pod.yaml", HINT)),
        ({"target": {"kind": "pod"}}, Fault(("target",), "a target needs a name or a selector, one of them")),
        (
            {"target": {"kind": "pod", "name": "a", "selector": "b"}},
            Fault(("target",), "a target needs a name or a selector, one of them"),
        ),
        (
            {"target": "pod/a", "tolerate": {"CrashLoopBackof": "1m"}},
            Fault(
                ("tolerate", "CrashLoopBackof"),
                "there is no reason 'CrashLoopBackof' to tolerate",
                "did you mean CrashLoopBackOff?",
            ),
        ),
        (
            {"target": ["job/a", "deploy/b", "widget/c"], "until": "complete"},
            Fault(
                ("target", 1),
                "a Deployment does not become complete: of the kinds of Kubernetes only Job and Pod do",
                "leave `until` out to wait until ready",
            ),
        ),
        (
            {"target": {"kind": "svc", "name": "a"}, "until": "complete"},
            Fault(
                ("target",),
                "a Service does not become complete: of the kinds of Kubernetes only Job and Pod do",
                "leave `until` out to wait until ready",
            ),
        ),
        (
            {"target": "pod/a", "until": "ready", "that": "true"},
            Fault(("that",), "`until` and `that` exclude each other"),
        ),
    ],
)
def test_what_is_wrong(data: dict[str, Any], expected: Fault) -> None:
    """Each with its place."""
    assert faults(data) == [expected]


# -- run ------------------------------------------------------------------------------------------------------------

Object = dict[str, Any]


def pod(name: str, ready: bool = True, **more: Any) -> Object:
    """A Pod as a cluster has it."""
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    meta = {"name": name, "namespace": "demo", "uid": f"uid-{name}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {}, "status": status, **more}


def troubled(name: str, reason: str, **more: Any) -> Object:
    """A Pod whose container waits in vain."""
    state = {"name": "app", "image": "i", "state": {"waiting": {"reason": reason}}, **more}
    return pod(name, status={"phase": "Pending", "containerStatuses": [state]})


JOB_FAILED = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "j", "uid": "uid-j"},
    "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]},
}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "demo", "uid": "uid-web", "generation": 1},
    "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}},
    "status": {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 1},
}


@dataclass
class Stage:
    """A step's context, its cluster and the clock in one: the states that watches show, one after the other; when there
    are no more, time goes by until the deadline.
    """

    states: dict[str, list[list[Object]]]
    timeout: float = 5
    now: float = 0.0
    namespace: str = "demo"
    engine: str = "kubectl"
    seen_selections: list[Selection] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    logged: list[tuple[int, str]] = field(default_factory=list)
    blamed: tuple[str, str] = ("", "")
    events_: list[Object] = field(default_factory=list)
    silent: StepFailed | None = None
    images: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scene = scene(timeout=self.timeout)
        self.dialect = KubectlDialect()
        self.deadline = Deadline(self.timeout)
        self.cluster = self
        self.found: dict[Hashable, list[Object]] = {}
        self.streams: dict[Hashable, Iterator[list[Object]]] = {}

    # the cluster

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[Object]]:
        self.seen_selections.append(selection)
        yield from self.states.get(str(selection), self.states.get(selection.kind, []))

    def events(self, namespace: str, name: str, deadline: Deadline) -> Iterator[list[Object]]:
        yield self.events_

    def promises_status(self, item: Object, deadline: Deadline) -> bool:
        return False

    def expand(self, selection: Selection, deadline: Deadline) -> list[Ref]:
        return [Ref("Pod", "pythonapp")]

    def trouble(self) -> StepFailed | None:
        return self.silent

    def diagnose(self, objects: Sequence[Object], deadline: Deadline, blame: tuple[str, str]) -> list[dict[str, Any]]:
        self.blamed = blame
        empty: dict[str, Any] = {"conditions": [], "events": [], "containers": []}
        nothing = {"namespace": "", "state": "", **empty, "alike": 0}
        return [{"object": f"explained {item['metadata']['name']}", **nothing} for item in objects]

    # the context

    def observed(self, line: str) -> None:
        self.lines.append(line)

    def waiting(self, what: str, seconds: float = 0.0) -> None:
        self.waits.append(what)

    def emit(self, event: str, /, level: str = "info", **fields: Any) -> None:
        sentence = fields["waiting_for"]
        if "seconds" not in fields and sentence not in self.waits[-1:]:
            self.waits.append(sentence)
        if level == "info":
            self.logged.append((round(self.now), sentence))

    def evaluate(self, key: str, **variables: Any) -> Any:
        """`that` and `fail_if` are keys of the object here."""
        if key not in variables["object"]:
            raise EvaluationError(key, f"there is no field `{key}`")
        return variables["object"][key]

    # the watches

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def follow(
        self, key: Hashable, watch: Callable[[Deadline], Iterator[list[Object]]], *, needed: bool = True
    ) -> None:
        self.streams.setdefault(key, watch(self.deadline))

    def seen(self, key: Hashable) -> list[Object] | None:
        return self.found.get(key)

    def awaited(self, key: Hashable) -> bool:
        return False

    def lost(self, key: Hashable) -> None:
        """Everything can be seen."""

    def pause(self, seconds: float) -> None:
        changed = False
        for key, stream in self.streams.items():
            if (state := next(stream, None)) is not None:
                self.found[key] = state
                changed = True
        self.now += 0.01 if changed else seconds
        if self.now >= self.timeout:
            raise Expired("the deadline")


Play = Callable[..., tuple[dict[str, Any], Any]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a wait over the states of one selection, or of several (`{"pod/a": [[], [...]]}`)."""

    def run(data: dict[str, Any], *states: Any, **more: Any) -> tuple[dict[str, Any], Any]:
        target = data["target"]
        kind = target["kind"] if isinstance(target, dict) else str(target).strip("['").partition("/")[0]
        script = states[0] if states and isinstance(states[0], dict) else {kind: list(states)}
        stage: Any = Stage(script, **more)
        monkeypatch.setattr(waiting, "Vigil", lambda deadline: stage)
        monkeypatch.setattr(time, "monotonic", lambda: stage.now)
        try:
            return wait.run(args(data), stage), stage
        except StepFailed as error:
            error.__dict__["stage"] = stage
            raise

    return run


def failed(play: Play, data: dict[str, Any], *states: Any, **more: Any) -> Any:
    with pytest.raises(StepFailed) as caught:
        play(data, *states, **more)
    return caught.value


def test_first_missing_then_pending_then_ready(play: Play) -> None:
    """One deadline covers both; what it waits for is told; the outputs are the objects."""
    outputs, stage = play({"target": "pod/a"}, [], [pod("a", ready=False)], [pod("a")])

    assert outputs == {"object": pod("a"), "objects": [pod("a")]}
    assert stage.waits == ["pod/a does not exist yet", "pod/a: is Running"]
    assert stage.lines == ["kubectl wait pod/a --namespace=demo --for=condition=Ready --timeout=5s"]
    assert stage.seen_selections == [Selection("pod", ("a",), "", "demo")]


@pytest.mark.parametrize(
    ("count", "ready", "total", "ends"),
    [
        ("all", 2, 2, True),
        ("all", 1, 2, False),
        ("all", 0, 0, False),
        ("any", 1, 3, True),
        ("any", 0, 3, False),
        (2, 2, 3, True),
        (2, 3, 3, True),
        (2, 1, 3, False),
        (2, 1, 1, False),
    ],
)
def test_how_many(play: Play, count: str | int, ready: int, total: int, ends: bool) -> None:
    """All that exist (at least one), any one, or a number."""
    data = {"target": {"kind": "pod", "selector": "app=x"}, "count": count}
    pods = [pod(str(number), ready=number < ready) for number in range(total)]

    if ends:
        assert play(data, pods)[0]["objects"] == pods
    else:
        assert failed(play, data, pods).reason == "timeout"


def test_all_of_several_names(play: Play) -> None:
    """A name that does not exist is not there yet, whatever the others do; objects come in the order of the names."""
    data = {"target": ["pod/b", "pod/a"]}

    assert failed(play, data, [pod("a")]).message == "timed out after 5 s: 1 of 2: pod/b does not exist yet"
    assert play(data, [pod("a")], [pod("a"), pod("b")])[0]["objects"] == [pod("b"), pod("a")]


def test_several_kinds_together(play: Play) -> None:
    """Their objects come together in the outputs; the one that is lost ends the wait, wherever it stands."""
    data = {"target": ["pod/a", "job/j"]}
    script = {"pod/a": [[pod("a", ready=False)]], "job/j": [[], [JOB_FAILED]]}
    error = failed(play, data, script)

    assert error.message.startswith("job/j: BackoffLimitExceeded")
    assert error.stage.now < 1
    outputs, stage = play({**data, "until": "exists"}, script)
    assert [item["metadata"]["name"] for item in outputs["objects"]] == ["a", "j"]
    assert len(stage.lines) == 2


def test_until_deleted(play: Play) -> None:
    """Ends when nothing is left, at once when nothing was there, and when another one has the name."""
    data = {"target": "pod/a", "until": "deleted"}
    outputs, stage = play(data, [pod("a")], [])
    other = pod("a", metadata={"name": "a", "uid": "another"})

    assert outputs == {"object": None, "objects": []}
    assert stage.waits == ["pod/a still exists, and is not being deleted"]
    assert play(data, [])[1].waits == []
    assert play(data, [pod("a")], [other])[1].now < 1


@pytest.mark.parametrize(("until", "ends"), [("condition=Ready", True), ("condition=Ready=False", False)])
def test_until_condition(play: Play, until: str, ends: bool) -> None:
    """With its value; True by default."""
    data = {"target": "pod/a", "until": until}

    if ends:
        assert play(data, [pod("a")])[0]["object"] == pod("a")
    else:
        assert failed(play, data, [pod("a")]).reason == "timeout"


def test_that(play: Play) -> None:
    """A missing field means not yet; only `true` ends the wait, not any value that is not empty."""
    data = {"target": "pod/a", "that": "object.x"}
    outputs, stage = play(data, [pod("a")], [pod("a", that=False)], [pod("a", that="yes")], [pod("a", that=True)])

    assert outputs["object"]["that"] is True
    assert stage.waits == [
        "pod/a: not yet object.x: there is no field `that`",
        "pod/a: not yet object.x",
        "pod/a: not yet object.x: it gives 'yes', which is neither true nor false",
    ]


def test_trouble_may_be_what_that_waits_for(play: Play) -> None:
    """It is told, and ends the wait only when `tolerate` names it."""
    data = {"target": "pod/a", "that": "object.x"}
    error = failed(play, data, [troubled("a", "CrashLoopBackOff")])
    told = "pod/a: not yet object.x: there is no field `that` (pod/a: container app: CrashLoopBackOff: "

    assert error.reason == "timeout"
    assert told in error.message
    named = failed(play, data | {"tolerate": {"CrashLoopBackOff": "1s"}}, [troubled("a", "CrashLoopBackOff")])
    assert (named.reason, round(named.stage.now)) == ("CrashLoopBackOff", 1)


def test_fail_if(play: Play) -> None:
    """Ends at once with the expression, and with what the cluster says about the objects."""
    data = {"target": "pod/a", "fail_if": "object.x"}
    error = failed(play, data, [pod("a", ready=False)], [pod("a", ready=False, fail_if=True)], [pod("a")])

    assert (error.message, error.reason, error.details) == ("pod/a: object.x holds", "fail_if", "explained a")
    assert not isinstance(error, TimedOut)
    assert play(data, [pod("a", ready=False, fail_if=False)], [pod("a")])


def test_what_cannot_succeed_fails_at_once(play: Play) -> None:
    """With the reason, what to do, what to type, and what the cluster says, as data too."""
    error = failed(play, {"target": "pod/a"}, [troubled("a", "ErrImageNeverPull")])

    assert not isinstance(error, TimedOut)
    assert (error.reason, error.details, error.stage.blamed) == ("ErrImageNeverPull", "explained a", ("pod/a", "app"))
    assert error.message.startswith("pod/a: container app: ErrImageNeverPull: ")
    assert error.hint.endswith("into the cluster; kubectl describe pod/a --namespace=demo")
    assert [item["object"] for item in error.objects] == ["explained a"]


def test_what_may_heal_gets_time(play: Play) -> None:
    """The line says for how long; healed in time it passes, and `tolerate` changes the time."""
    data = {"target": "pod/a"}
    missing = troubled("a", "CreateContainerConfigError")
    error = failed(play, data, [missing], timeout=60)

    assert (error.reason, round(error.stage.now)) == ("CreateContainerConfigError", 20)
    assert error.stage.waits[0].endswith("(tolerated for 20 s)")
    assert play(data, [missing], [pod("a")])[0]["object"] == pod("a")
    shorter = data | {"tolerate": {"CreateContainerConfigError": "3s"}}
    assert round(failed(play, shorter, [missing], timeout=60).stage.now) == 3
    longer = data | {"tolerate": {"CreateContainerConfigError": "1h"}}
    assert failed(play, longer, [missing], timeout=60).reason == "timeout"


def test_a_new_trouble_has_time_of_its_own(play: Play) -> None:
    """What healed and comes back begins anew; a pull that fails and backs off in turns does not."""
    first, second = troubled("a", "ErrImagePull"), troubled("a", "ImagePullBackOff")
    states = [state for _ in range(3000) for state in ([first], [second])]
    healed = [[troubled("a", "CreateContainerError")]] * 1500 + [[pod("a", ready=False)]]
    healed += [[troubled("a", "CreateContainerError")]] * 1500 + [[pod("a")]]

    assert round(failed(play, {"target": "pod/a"}, *states, timeout=100).stage.now) == 40
    assert play({"target": "pod/a"}, *healed, timeout=100)[1].now > 25


def test_registry_that_says_no_is_believed(play: Play) -> None:
    """A pull may heal when the registry was away, not when it has no such image."""
    waiting_ = {"state": {"waiting": {"reason": "ErrImagePull", "message": 'failed to resolve "x:1": x:1: not found'}}}
    error = failed(play, {"target": "pod/a"}, [troubled("a", "ErrImagePull", **waiting_)])

    assert (error.reason, error.stage.now < 1) == ("ErrImagePull", True)
    assert error.message.endswith("the image cannot be pulled: image i: x:1: not found")


def test_count_survives_one_that_is_lost(play: Play) -> None:
    """As long as so many can come; when not, it ends."""
    lost = troubled("b", "CrashLoopBackOff")
    names = {"target": ["pod/a", "pod/b"]}

    assert play(names | {"count": 1}, [pod("a", ready=False), lost], [pod("a"), lost])[1].now < 1
    assert failed(play, names | {"count": 2}, [pod("a", ready=False), lost]).reason == "CrashLoopBackOff"
    assert failed(play, names | {"count": "any"}, [lost, troubled("a", "ErrImageNeverPull")]).stage.now < 1
    assert failed(play, names | {"count": "any"}, [lost, pod("a", ready=False)]).reason == "timeout"


def test_workload_is_judged_by_its_pods(play: Play) -> None:
    """The message names both; the details are about the workload, and its Pod is to blame."""
    script = {"deployment/web": [[DEPLOYMENT]], "pod -l app=web": [[], [troubled("web-1", "ErrImageNeverPull")]]}
    error = failed(play, {"target": "deployment/web"}, script)

    assert error.message.startswith("deployment/web: pod/web-1: container app: ErrImageNeverPull: ")
    assert error.hint.endswith("kubectl describe pod/web-1 --namespace=demo")
    assert (error.details, error.stage.blamed) == ("explained web", ("pod/web-1", "app"))


def test_events_say_what_status_does_not(play: Play) -> None:
    """A volume that cannot be mounted is known from events alone."""
    event = {
        "reason": "FailedMount",
        "message": 'secret "s" not found',
        "involvedObject": {"uid": "uid-a"},
        "lastTimestamp": "2024-01-01T00:00:00Z",
        "metadata": {"resourceVersion": "1"},
    }
    waits = troubled("a", "ContainerCreating")
    error = failed(play, {"target": "pod/a"}, [waits], timeout=60, events_=[event])

    assert (error.reason, round(error.stage.now)) == ("FailedMount", 20)
    assert error.message == 'pod/a: FailedMount: a volume cannot be mounted: secret "s" not found'


def test_timeout(play: Play) -> None:
    """Says how long, what was missing, what to type next, and what the cluster says."""
    error = failed(play, {"target": "pod/a"}, [pod("a", ready=False)])

    assert isinstance(error, TimedOut)
    assert error.message == "timed out after 5 s: pod/a: is Running"
    assert (error.hint, error.details, error.reason) == (
        "kubectl describe pod/a --namespace=demo",
        "explained a",
        "timeout",
    )


def test_timeout_when_the_cluster_is_silent(play: Play) -> None:
    """Then that is the reason, and nobody is asked for more."""
    silent = StepFailed("the API server does not answer", hint="is it running?")
    error = failed(play, {"target": "pod/a"}, [pod("a", ready=False)], silent=silent)

    assert error.message == "timed out after 5 s: pod/a: is Running: the API server does not answer"
    assert (error.hint, error.details) == ("is it running?", "")


@pytest.mark.parametrize(
    ("target", "hint"),
    [("pod/pythonap", "did you mean pod/pythonapp?"), ("pod/x", "there is: pythonapp")],
)
def test_timeout_of_what_never_came(play: Play, target: str, hint: str) -> None:
    """The name may be misspelt."""
    error = failed(play, {"target": target}, [])

    assert (error.message, error.hint) == (f"timed out after 5 s: {target} does not exist yet", hint)


def test_image_that_the_nodes_have(play: Play) -> None:
    """Of one that the run built or loaded it is no question of names and registries."""
    pulled = troubled("a", "ErrImagePull", image="web")
    pulled["spec"] = {"containers": [{"name": "app", "image": "web"}]}
    known = failed(
        play,
        {"target": "pod/a", "tolerate": {"ErrImagePull": "0s"}},
        [pulled],
        images={"docker.io/library/web:latest": "1"},
    )
    unknown = failed(play, {"target": "pod/a", "tolerate": {"ErrImagePull": "0s"}}, [pulled])

    assert known.hint.startswith("the nodes have this image already, but are told to pull it")
    assert unknown.hint.startswith("check the image's name")


@pytest.mark.parametrize(
    ("stopped", "hint"),
    [
        (
            {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"paused": True}},
            "kubectl rollout resume deployment/a --namespace=demo",
        ),
        (
            {"apiVersion": "batch/v1", "kind": "Job", "spec": {"suspend": True}},
            """kubectl patch job/a --namespace=demo --type=merge --patch='{"spec":{"suspend":false}}'""",
        ),
    ],
)
def test_timeout_of_what_was_stopped(play: Play, stopped: Object, hint: str) -> None:
    """What to type so that it goes on."""
    error = failed(play, {"target": f"{stopped['kind'].lower()}/a"}, [{**pod("a"), "status": {}, **stopped}])

    assert (error.reason, error.hint) == ("timeout", hint)


def test_object_that_went_away(play: Play) -> None:
    """It may come back for some seconds, as a Pod of a StatefulSet does; then it is lost."""
    error = failed(play, {"target": "pod/a"}, [pod("a", ready=False)], [], timeout=60)

    assert (error.reason, round(error.stage.now)) == ("Deleted", 5)
    assert error.message == "pod/a: Deleted: it was deleted meanwhile, and did not come back"
    assert error.stage.waits[-1] == "pod/a was deleted meanwhile (tolerated for 5 s)"
    assert play({"target": "pod/a"}, [pod("a", ready=False)], [], [pod("a")])[1].now < 1


def test_it_says_that_it_is_alive(play: Play) -> None:
    """The same line again every 10 s."""
    error = failed(play, {"target": "pod/a"}, [pod("a", ready=False)], timeout=35)

    assert error.stage.waits == ["pod/a: is Running"]
    assert error.stage.logged == [(seconds, "pod/a: is Running") for seconds in (0, 10, 20, 30)]


def test_the_log_is_not_flooded(play: Play) -> None:
    """Of changes that chase each other it has the newest, less and less often; what comes after a silence, at once."""

    def probe(number: int) -> list[Object]:
        return [pod("a", ready=False, status={"phase": f"number {number}"})]

    hectic = failed(play, {"target": "pod/a"}, *map(probe, range(6000)), timeout=60).stage
    quiet = failed(play, {"target": "pod/a"}, probe(0), probe(1), timeout=25).stage

    assert [moment for moment, _ in hectic.logged] == [0, 1, 3, 7, 15, 25, 35, 45, 55]
    assert len(hectic.waits) == len(set(hectic.waits)) > 5000  # the live view has all of them
    assert quiet.logged == [(0, "pod/a: is number 0"), *((moment, "pod/a: is number 1") for moment in (1, 11, 21))]
