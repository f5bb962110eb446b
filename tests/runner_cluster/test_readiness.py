"""When an object is ready, complete, or hopeless: the rules, kind by kind."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster.readiness import Around, judge


def item(kind: str, status: dict[str, Any] | None = None, generation: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "x", "generation": generation},
        "spec": spec,
        "status": status or {},
    }


def condition(name: str, status: str = "True", **more: str) -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": status, **more}]}


def container(**state: Any) -> dict[str, Any]:
    return {"phase": "Pending", "containerStatuses": [{"name": "app", "image": "i", "ready": False, **state}]}


@pytest.mark.parametrize(
    "ready",
    [
        item("Pod", {"phase": "Running", **condition("Ready")}),
        item(
            "Deployment",
            {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
            replicas=2,
        ),
        item("Deployment", {"observedGeneration": 1}, replicas=0),
        item("ReplicaSet", {"availableReplicas": 1}),
        item("StatefulSet", {"readyReplicas": 1, "currentRevision": "a", "updateRevision": "a"}),
        item(
            "DaemonSet",
            {"observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": 1}
            | {"numberAvailable": 1},
        ),
        item("DaemonSet", {"observedGeneration": 1, "desiredNumberScheduled": 0}),
        item("Job", condition("Complete")),
        item("PersistentVolumeClaim", {"phase": "Bound"}),
        item("Namespace", {"phase": "Active"}),
        item("Service", type="ClusterIP"),
        item("Service", {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}, type="LoadBalancer"),
        item("CustomResourceDefinition", condition("Established")),
        item("ConfigMap"),
        item("Widget", {"observedGeneration": 1, **condition("Ready")}),
    ],
    ids=lambda found: found["kind"],
)
def test_ready(ready: dict[str, Any]) -> None:
    """Each kind by what its controller writes; a kind without conditions is ready as soon as it exists."""
    assert judge(ready, "ready").state == "done"


@pytest.mark.parametrize(
    ("pending", "sentence"),
    [
        (item("Pod"), "pod/x: waits for a node"),
        (
            item("Pod", container(state={"waiting": {"reason": "ContainerCreating"}})),
            "pod/x: container app is being created",
        ),
        (
            item("Pod", {**container(state={"running": {}}), "phase": "Running"}),
            "pod/x: container app runs, but is not ready",
        ),
        (
            item("Pod", {"phase": "Pending", **condition("PodScheduled", "False", message="gates are closed")}),
            "pod/x: not scheduled: gates are closed",
        ),
        (item("Deployment", {"observedGeneration": 1}, replicas=2), "deployment/x: 0 of 2 replicas updated"),
        (item("Deployment", replicas=0), "deployment/x: not seen by its controller"),
        (
            item(
                "Deployment",
                {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2},
                replicas=2,
            ),
            "deployment/x: old replicas are still there",
        ),
        (
            item("Deployment", {"observedGeneration": 1}, generation=2),
            "deployment/x: its controller has not seen the last change yet",
        ),
        (item("StatefulSet", {"readyReplicas": 1}, replicas=3), "statefulset/x: 1 of 3 replicas ready"),
        (item("DaemonSet"), "daemonset/x: not seen by its controller"),
        (item("Job", {"active": 1, "failed": 2}), "job/x: 0 of 1 Pods succeeded, 2 failed"),
        (item("PersistentVolumeClaim"), "persistentvolumeclaim/x is Pending"),
        (item("Service", type="LoadBalancer"), "service/x has no address of a load balancer yet"),
        (item("CustomResourceDefinition"), "customresourcedefinition/x is not established yet"),
        (item("Widget", condition("Ready", "False", message="no disk")), "widget/x: Ready is False: no disk"),
        (item("Widget", condition("Reconciling", message="busy")), "widget/x is Reconciling: busy"),
    ],
)
def test_not_ready_yet(pending: dict[str, Any], sentence: str) -> None:
    """The sentence says what is missing."""
    verdict = judge(pending, "ready")

    assert (verdict.state, verdict.sentence) == ("pending", sentence)


@pytest.mark.parametrize(
    ("found", "reason", "sentence"),
    [
        (
            item("Pod", {"phase": "Succeeded"}),
            "PodSucceeded",
            "pod/x: PodSucceeded: the Pod ended, so it will not become ready",
        ),
        (
            item(
                "Pod",
                {
                    "phase": "Failed",
                    "containerStatuses": [{"name": "app", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}],
                },
            ),
            "PodFailed",
            "pod/x: container app: PodFailed: the Pod failed: exit code 3, Error",
        ),
        (
            item("Job", condition("Failed", reason="BackoffLimitExceeded", message="too many")),
            "BackoffLimitExceeded",
            "job/x: BackoffLimitExceeded: the Job failed as often as its backoffLimit allows: too many",
        ),
        (
            item("Job", condition("FailureTarget", reason="FailedIndexes", message="Job has failed indexes")),
            "FailedIndexes",
            (
                "job/x: FailedIndexes: indexes of the Job failed as often as backoffLimitPerIndex allows: "
                "Job has failed indexes"
            ),
        ),
        (
            item("Job", condition("Failed", reason="Evicted", message="the queue is full")),
            "JobFailed",
            (
                "job/x: JobFailed: the Job failed for a reason of its own controller (`managedBy`): "
                "Evicted: the queue is full"
            ),
        ),
        (
            item(
                "Deployment",
                {
                    "observedGeneration": 1,
                    **condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="timed out"),
                },
            ),
            "ProgressDeadlineExceeded",
            "deployment/x: ProgressDeadlineExceeded: the rollout made no progress: timed out",
        ),
        (
            item("PersistentVolumeClaim", {"phase": "Lost"}),
            "Lost",
            "persistentvolumeclaim/x: Lost: the claim lost its volume",
        ),
        (
            item("Widget", condition("Stalled", message="never")),
            "Stalled",
            "widget/x: Stalled: its controller has given up: never",
        ),
        (
            item("CustomResourceDefinition", condition("NamesAccepted", "False", message="widgets is taken")),
            "NamesNotAccepted",
            "customresourcedefinition/x: NamesNotAccepted: another definition has these names: widgets is taken",
        ),
    ],
)
def test_hopeless(found: dict[str, Any], reason: str, sentence: str) -> None:
    """What cannot become ready any more, with the cluster's own words at the end."""
    trouble = judge(found, "ready").hopeless

    assert trouble
    assert (trouble.reason, trouble.sentence) == (reason, sentence)


@pytest.mark.parametrize(
    ("found", "until", "state"),
    [
        (item("ConfigMap"), "exists", "done"),
        (item("ConfigMap"), "deleted", "pending"),
        (item("Pod", {"phase": "Succeeded"}), "complete", "done"),
        (item("Pod", {"phase": "Failed"}), "complete", "hopeless"),
        (item("Pod", {"phase": "Running"}), "complete", "pending"),
        (item("Pod", {"phase": "Running"}, restartPolicy="OnFailure"), "complete", "pending"),
        (item("Pod", {"phase": "Running"}, restartPolicy="Always"), "complete", "hopeless"),
        (item("Pod", {"phase": "Running"}, restartPolicy="Always"), "ready", "pending"),
        (item("Job", condition("Complete")), "complete", "done"),
        (item("Job", condition("Failed")), "complete", "hopeless"),
        (item("Job", condition("Suspended")), "complete", "pending"),
        (item("TaskRun", condition("Succeeded")), "complete", "done"),
        (item("Widget"), "complete", "pending"),
        (item("Widget", condition("Synced")), "condition=Synced", "done"),
        (item("Widget", condition("Synced", "False")), "condition=synced=false", "done"),
        (item("Widget"), "condition=Synced", "pending"),
        # Trouble ends a wait for a good condition, and leads to a bad one.
        (item("Pod", {"phase": "Failed"}), "condition=example.com/gate", "hopeless"),
        (item("Pod", {"phase": "Failed"}), "condition=Ready=False", "pending"),
        (item("Job", condition("Failed")), "condition=Failed", "done"),
        (item("Job", condition("Failed")), "condition=Complete", "hopeless"),
        (item("Widget", condition("Stalled")), "condition=Degraded", "pending"),
    ],
)
def test_until(found: dict[str, Any], until: str, state: str) -> None:
    """Other goals than readiness; conditions are compared as kubectl does, without regard to case."""
    verdict = judge(found, until)

    assert ("hopeless" if verdict.hopeless else verdict.state) == state


def test_object_that_is_being_deleted_is_not_ready() -> None:
    """Whatever its conditions say; what holds it is named."""
    found = item("Pod", {"phase": "Running", **condition("Ready")})
    found["metadata"] |= {"deletionTimestamp": "2024-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}

    assert judge(found, "ready").sentence == "pod/x is being deleted, ending within its grace period of 30 s"
    assert judge(found, "deleted").sentence == "pod/x still exists, ending within its grace period of 30 s"
    found["metadata"]["finalizers"] = ["example.com/hold"]
    assert judge(found, "deleted").sentence == "pod/x still exists, held by its finalizers: example.com/hold"
    assert judge(item("Pod"), "deleted").sentence == "pod/x still exists, and is not being deleted"


def test_condition_from_before_the_last_change() -> None:
    """A controller that writes the generation into its conditions has not looked again yet."""
    found = item("Gateway", condition("Programmed") | {"observedGeneration": 2}, generation=2)
    found["status"]["conditions"][0]["observedGeneration"] = 1

    assert judge(found, "ready").sentence == "gateway/x: its condition Programmed is from before the last change"
    assert judge(found, "condition=Programmed").state == "pending"


def test_custom_resource_without_a_status() -> None:
    """Its definition says whether a controller will write one."""
    assert judge(item("Widget"), "ready", Around(status=True)).state == "pending"
    assert judge(item("Widget", {"size": 1}), "ready", Around(status=True)).state == "done"
    assert judge(item("Widget"), "ready").state == "done"


def endpoint(*, ready: bool) -> dict[str, Any]:
    return {"endpoints": [{"conditions": {"ready": ready}}]}


def pod(**status: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "p", "uid": "p"}, "spec": {}, "status": {"phase": "Pending", **status}}


NEVER = {"name": "app", "image": "i", "state": {"waiting": {"reason": "ErrImageNeverPull"}}}


@pytest.mark.parametrize(
    ("spec", "around", "state", "sentence"),
    [
        ({"selector": {"app": "x"}}, Around(slices=[endpoint(ready=True)]), "done", ""),
        ({"selector": {"app": "x"}}, Around(slices=[]), "pending", "service/x has no ready endpoint"),
        (
            {"selector": {"app": "x"}},
            Around(slices=[endpoint(ready=False)], pods=[pod()]),
            "pending",
            "service/x has no ready endpoint: pod/p: waits for a node",
        ),
        (
            {"selector": {"app": "x"}},
            Around(slices=[], pods=[]),
            "pending",
            "service/x: NoPods: no Pod has the labels that the Service selects: app=x",
        ),
        (
            {"selector": {"app": "x"}},
            Around(slices=[], pods=[pod(containerStatuses=[NEVER])]),
            "hopeless",
            None,
        ),
        ({"selector": {"app": "x"}}, Around(slices=[], pods=[pod(containerStatuses=[NEVER]), pod()]), "pending", None),
        ({"type": "ExternalName"}, Around(), "done", ""),
        ({}, Around(slices=[]), "done", ""),
        ({}, Around(slices=[endpoint(ready=False)]), "pending", "service/x has no ready endpoint"),
        ({"selector": {"app": "x"}}, Around(complete=False), "pending", "service/x: is looked at"),
    ],
)
def test_service(spec: dict[str, Any], around: Around, state: str, sentence: str | None) -> None:
    """Ready is an endpoint; one good Pod is enough, and without any it says why."""
    verdict = judge(item("Service", **spec), "ready", around)

    assert ("hopeless" if verdict.hopeless else verdict.state) == state
    assert sentence is None or verdict.sentence == sentence


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (item("Ingress"), "pending"),
        (item("Ingress", {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}), "done"),
        (item("APIService"), "pending"),
        (item("APIService", condition("Available")), "done"),
        (item("PersistentVolume", {"phase": "Available"}), "done"),
        (item("HorizontalPodAutoscaler"), "pending"),
        (
            item(
                "HorizontalPodAutoscaler",
                {"conditions": [{"type": name, "status": "True"} for name in ("AbleToScale", "ScalingActive")]},
            ),
            "done",
        ),
        (
            item(
                "HorizontalPodAutoscaler",
                {
                    "conditions": [
                        {"type": "AbleToScale", "status": "True"},
                        {"type": "ScalingActive", "status": "False", "reason": "ScalingDisabled"},
                    ]
                },
            ),
            "done",
        ),
        (item("PodDisruptionBudget"), "pending"),
        (item("PodDisruptionBudget", {"observedGeneration": 1}), "done"),
        (item("CronJob"), "done"),
        (item("StatefulSet", {"readyReplicas": 2, "replicas": 3}, replicas=2), "pending"),
        (item("StatefulSet", {"readyReplicas": 1}, updateStrategy={"type": "OnDelete"}), "done"),
        (
            item(
                "StatefulSet",
                {"readyReplicas": 3, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
                replicas=3,
                updateStrategy={"rollingUpdate": {"partition": 2}},
            ),
            "done",
        ),
        (item("ReplicaSet", {"availableReplicas": 2, "replicas": 2}, replicas=1), "pending"),
    ],
)
def test_other_kinds(found: dict[str, Any], state: str) -> None:
    """What the controller of each kind writes when it is done."""
    assert judge(found, "ready").state == state


def test_workload_speaks_of_its_pods() -> None:
    """The count first, then why the first Pod that misses is not ready, one in trouble rather than another."""
    found = item("ReplicaSet", {"availableReplicas": 1}, replicas=3)
    ready = pod(phase="Running", **condition("Ready"))
    verdict = judge(found, "ready", Around(pods=[ready, pod(), pod(containerStatuses=[NEVER])]))

    assert verdict.sentence.startswith("replicaset/x: 1 of 3 replicas ready: pod/p: container app: ErrImageNeverPull")
    assert verdict.hopeless
    assert verdict.hopeless.object["kind"] == "Pod"


def test_job_counts_the_crashes_of_its_pods() -> None:
    """Its backoffLimit decides about them; an image that is not there makes it wait for ever."""
    crash = {"name": "app", "image": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}

    assert judge(item("Job"), "ready", Around(pods=[pod(containerStatuses=[crash])])).hopeless is None
    assert judge(item("Job"), "ready", Around(pods=[pod(containerStatuses=[NEVER])])).hopeless


def event(uid: str, reason: str, message: str = "", second: int = 0) -> dict[str, Any]:
    return {
        "involvedObject": {"uid": uid},
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2024-01-01T00:00:{second:02}Z",
        "metadata": {"resourceVersion": "1"},
    }


def test_pods_that_cannot_be_created() -> None:
    """By the condition of a ReplicaSet or Deployment, else by events, as long as nothing newer says otherwise."""
    quota = 'pods "x-abc" is forbidden: exceeded quota: none'
    by_condition = judge(item("ReplicaSet", condition("ReplicaFailure", message=quota)), "ready").troubles
    stateful = item("StatefulSet")
    stateful["metadata"]["uid"] = "s"
    failed = event("s", "FailedCreate", f"create Pod x-0 in StatefulSet x failed error: {quota}", 1)
    by_event = judge(stateful, "ready", Around(events=[failed])).troubles
    healed = judge(stateful, "ready", Around(events=[failed, event("s", "SuccessfulCreate", second=2)])).troubles

    assert [(each.reason, each.words) for each in (*by_condition, *by_event)] == [
        ("FailedCreate", "exceeded quota: none")
    ] * 2
    assert healed == ()


def test_claim_explains_itself_by_events() -> None:
    """Its status says nothing but Pending."""
    claim = item("PersistentVolumeClaim", {"phase": "Pending"})
    claim["metadata"]["uid"] = "c"
    verdict = judge(claim, "ready", Around(events=[event("c", "FailedBinding", "no volumes available")]))

    assert [trouble.reason for trouble in verdict.troubles] == ["FailedBinding"]
    assert verdict.sentence.endswith("no storage class makes one: no volumes available")


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["ExternalProvisioning"], [("ExternalProvisioning", False)]),
        (["Provisioning", "ExternalProvisioning"], []),
        (["Provisioning", "ProvisioningFailed", "ExternalProvisioning"], [("ProvisioningFailed", False)]),
        # The next attempt is on its way: nothing ends now, but the time runs on.
        (["ProvisioningFailed", "Provisioning", "ExternalProvisioning"], [("ProvisioningFailed", True)]),
        (["ProvisioningFailed", "ProvisioningSucceeded"], []),
        (["WaitForFirstConsumer", "ExternalProvisioning", "Provisioning"], []),
    ],
)
def test_claim_and_its_provisioner(reasons: list[str], expected: list[tuple[str, bool]]) -> None:
    """The controller says every 15 s that it waits; whether a provisioner is there, its own events tell."""
    claim = item("PersistentVolumeClaim", {"phase": "Pending"})
    claim["metadata"]["uid"] = "c"
    events = [event("c", reason, second=second) for second, reason in enumerate(reasons)]

    troubles = judge(claim, "ready", Around(events=events)).troubles

    assert [(trouble.reason, trouble.resting) for trouble in troubles] == expected


NO_METRICS = (
    "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for "
    "resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource "
    "(get pods.metrics.k8s.io)"
)


@pytest.mark.parametrize(
    ("name", "reason", "message", "sentence"),
    [
        (
            "AbleToScale",
            "FailedGetScale",
            'the HPA controller was unable to get the target\'s current scale: deployments.apps "web" not found',
            'FailedGetScale: what it scales does not exist, or cannot be scaled: deployments.apps "web" not found',
        ),
        (
            "ScalingActive",
            "FailedGetResourceMetric",
            NO_METRICS,
            "NoMetricsApi: the cluster does not serve the metrics that it scales by: pods.metrics.k8s.io",
        ),
        (
            "ScalingActive",
            "FailedGetResourceMetric",
            "the HPA was unable to compute the replica count: missing request for cpu in container app of Pod web-1",
            (
                "ScalingInactive: it cannot tell how many replicas there must be: "
                "FailedGetResourceMetric: missing request for cpu in container app of Pod web-1"
            ),
        ),
    ],
)
def test_autoscaler_that_cannot_scale(name: str, reason: str, message: str, sentence: str) -> None:
    """Its conditions tell; without a condition yet, it is looked at first."""
    found = item("HorizontalPodAutoscaler", condition(name, "False", reason=reason, message=message))
    verdict = judge(found, "ready")

    assert verdict.sentence == f"horizontalpodautoscaler/x: {sentence}"
    assert [trouble.sentence for trouble in verdict.troubles] == [verdict.sentence]
    assert judge(item("HorizontalPodAutoscaler"), "ready").troubles == ()


def test_api_service_says_what_is_missing() -> None:
    """A Service that does not exist is trouble; one that has no endpoints may be on its way."""
    gone = item("APIService", condition("Available", "False", reason="ServiceNotFound", message="no service/x"))
    late = item("APIService", condition("Available", "False", reason="MissingEndpoints", message="no addresses"))

    assert [trouble.reason for trouble in judge(gone, "ready").troubles] == ["ServiceNotFound"]
    assert judge(late, "ready").sentence == "apiservice/x: Available is False: no addresses"
    assert judge(late, "ready").troubles == ()


@pytest.mark.parametrize("seen", [{}, {"observedGeneration": 1}])
def test_budget_that_cannot_be_counted(seen: dict[str, int]) -> None:
    """Its controller may have been there before, with no Pods to count, or not."""
    failed = condition("DisruptionAllowed", "False", reason="SyncFailed", message="no scale")
    verdict = judge(item("PodDisruptionBudget", {**seen, **failed}), "ready")

    assert verdict.sentence == (
        "poddisruptionbudget/x: SyncFailed: the Pods that it protects cannot be counted: no scale"
    )
    assert [trouble.reason for trouble in verdict.troubles] == ["SyncFailed"]


# -- what is not as usual ---------------------------------------------------------------------------------------------


def custom(kind: str, status: Any, generation: int = 1) -> dict[str, Any]:
    return {**item(kind, None, generation), "apiVersion": "things.example.com/v1", "status": status}


def test_daemon_set_that_must_stay_up_for_a_while() -> None:
    """`minReadySeconds`: ready is not available."""
    status = {"observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": 1}
    assert judge(item("DaemonSet", status), "ready").sentence == "daemonset/x: 0 of 1 Pods available"


@pytest.mark.parametrize("kind", ["Service", "Job", "Deployment", "Pod"])
def test_kinds_of_other_groups_are_judged_by_their_conditions(kind: str) -> None:
    """A Service of Knative or a Job of Volcano is none of Kubernetes."""
    assert judge(custom(kind, condition("Ready", "False", message="no image")), "ready").sentence == (
        f"{kind.lower()}/x: Ready is False: no image"
    )
    assert judge(custom(kind, condition("Ready")), "ready").state == "done"
    assert judge(custom(kind, condition("Succeeded")), "complete").state == "done"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("Running", "done"),
        (["a"], "done"),
        ({"conditions": {"Ready": "True"}}, "done"),
        ({"conditions": ["Ready"]}, "done"),
        ({"conditions": [{"type": "Ready", "status": "False"}]}, "pending"),
        ({"observedGeneration": "1", **condition("Ready")}, "pending"),
        ({"observedGeneration": "2", **condition("Ready")}, "done"),
        ({"observedGeneration": {"a": 1}, **condition("Ready")}, "done"),
    ],
)
def test_statuses_of_any_shape(status: Any, state: str) -> None:
    """Custom resources may have anything there; a generation as text is one all the same."""
    assert judge(custom("Gadget", status, generation=2), "ready").state == state
    assert judge(custom("Gadget", status, generation=2), "condition=Ready").state in ("pending", "done")


def test_trouble_from_before_the_last_change_does_not_count() -> None:
    """Its controller has not looked yet."""
    stuck = condition("Progressing", "False", reason="ProgressDeadlineExceeded")
    behind = item("Deployment", {"observedGeneration": 1, **stuck}, generation=2)
    assert (judge(behind, "ready").state, judge(behind, "ready").troubles) == ("pending", ())
    assert judge(item("Deployment", {"observedGeneration": 2, **stuck}, generation=2), "ready").troubles
    assert judge(custom("Gadget", {"observedGeneration": 1, **condition("Stalled")}, 2), "ready").troubles == ()


def test_condition_from_before_the_last_change_does_not_count() -> None:
    """As for `kubectl wait`: by its own generation, or that of the status."""
    behind = {"observedGeneration": 1, **condition("Ready")}
    assert judge(custom("Gadget", behind, generation=2), "condition=Ready").state == "pending"


def test_pods_that_have_ended_do_not_stand_for_a_service() -> None:
    """Those of a Job may have its labels; others come."""
    ended = {"kind": "Pod", "metadata": {"name": "p", "uid": "p"}, "spec": {}, "status": {"phase": "Succeeded"}}
    verdict = judge(item("Service", selector={"app": "x"}), "ready", Around(pods=[ended], slices=[]))
    assert [trouble.reason for trouble in verdict.troubles] == ["NoPods"]
