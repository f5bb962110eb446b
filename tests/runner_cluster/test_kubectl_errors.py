"""The table of kubectl's complaints: real words, and what they mean."""

# ruff: noqa: E501 - kubectl's words, as long as they come
from __future__ import annotations

import pytest

from runner.cluster import kubectl_errors
from runner.cluster.kubectl_errors import classify, complaints, words

CREATING = 'Error from server (Forbidden): error when creating "STDIN": '
WEBHOOK = 'Internal error occurred: failed calling webhook "check.example.test": failed to call webhook: Post '
ADDRESS = '"https://hook.web.svc:443/x?timeout=2s": '
KLOG = (
    'E1124 01:56:11.351192    9221 memcache.go:265] "Unhandled Error" err="couldn\'t get current server API group list: '
    'Get \\"http://127.0.0.1:1/api?timeout=32s\\": dial tcp 127.0.0.1:1: connect: connection refused"\n'
)
OPENAPI = 'error: error validating "STDIN": error validating data: failed to download openapi: Get '
CONFLICTS = """\
error: Apply failed with 2 conflicts: conflicts with "kubectl-create" using apps/v1:
- .spec.replicas
- .spec.template.spec.containers[name="x"].image
Please review the fields above--they currently have other managers. Here
are the ways you can resolve this warning:
"""
POD_CHANGED = """\
The Pod "p" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`
@@ -93,7 +93,9 @@
   {
    "Name": "p",
"""
RETRIEVING = """\
Error from server (Forbidden): error when retrieving current configuration of:
Resource: "/v1, Resource=configmaps", GroupVersionKind: "/v1, Kind=ConfigMap"
Name: "q2", Namespace: "web"
from server for: "STDIN": configmaps "q2" is forbidden: User "jane" cannot get resource "configmaps" in API group "" \
in the namespace "web"
"""
HINT_OF_KUBECTL = "; if you choose to ignore these errors, turn validation off with --validate=false"
NO_KIND = (
    'error: resource mapping not found for name: "p" namespace: "" from "STDIN": no matches for kind "Foo" in version '
    '"foo.test/v1"\nensure CRDs are installed first\n'
)

# -- what means what: (kubectl's words, rule, the sentence of it)

CONVERGING = [
    (
        (
            f'Error from server (InternalError): error when creating "STDIN": {WEBHOOK}{ADDRESS}'
            "dial tcp 10.96.44.185:443: connect: connection refused"
        ),
        "WebhookNotServing",
        "the admission webhook check.example.test does not answer",
    ),
    (
        f'Error from server (InternalError): {WEBHOOK}{ADDRESS}no endpoints available for service "hook"',
        "WebhookNotServing",
        "the admission webhook check.example.test does not answer",
    ),
    (
        (
            f"Error from server (InternalError): {WEBHOOK}{ADDRESS}tls: failed to verify certificate: x509: certificate "
            "signed by unknown authority"
        ),
        "WebhookUntrusted",
        (
            "the API server does not trust the certificate of the admission webhook check.example.test: certificate "
            "signed by unknown authority"
        ),
    ),
    (
        f'Error from server (InternalError): {WEBHOOK}{ADDRESS}service "hook" not found',
        "WebhookWithoutService",
        "the admission webhook check.example.test is to be served by service/hook in namespace web, which does not exist",
    ),
    (
        f"Error from server (InternalError): {WEBHOOK}{ADDRESS}the server could not find the requested resource",
        "WebhookFails",
        "the admission webhook check.example.test gives no valid answer: the server could not find the requested resource",
    ),
    (
        f"Error from server (InternalError): {WEBHOOK}{ADDRESS}context deadline exceeded",
        "WebhookNotServing",
        "the admission webhook check.example.test does not answer",
    ),
    (
        (
            f'{CREATING}pods "a" is forbidden: error looking up service account web/default: serviceaccount "default" not '
            "found"
        ),
        "NoDefaultServiceAccount",
        "the namespace web has no default service account yet",
    ),
    (
        f'{CREATING}pods "a" is forbidden: error looking up service account web/zz: serviceaccount "zz" not found',
        "NoServiceAccount",
        "there is no service account zz in the namespace web",
    ),
    (
        (
            f'{CREATING}configmaps "q2" is forbidden: unable to create new content in namespace web because it is being '
            "terminated"
        ),
        "NamespaceTerminating",
        "the namespace web is being deleted",
    ),
    (
        (
            'Error from server (AlreadyExists): error when creating "STDIN": object is being deleted: pods "a" already '
            "exists"
        ),
        "ObjectTerminating",
        "pods/a of before is still being deleted",
    ),
    (
        f'{CREATING}pods "a" is forbidden: status unknown for quota: q, resources: pods',
        "QuotaUncounted",
        "the quota q is new, and what is used of it is not counted yet",
    ),
    (
        f'{CREATING}pods "q2" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=1',
        "QuotaExceeded",
        "pods/q2 does not fit into the quota q: it wants pods=1, and pods=2 of pods=1 are used",
    ),
    (NO_KIND, "NoKindMatch", "the cluster knows no kind Foo in foo.test/v1"),
    (
        "Error from server (NotFound): the server could not find the requested resource",
        "ResourceNotServed",
        "the server does not serve this resource",
    ),
]

PERMANENT = [
    (
        (
            'Error from server: error when creating "STDIN": admission webhook "check.example.test" denied the request: no '
            "cats"
        ),
        "DeniedByWebhook",
        "the admission webhook check.example.test denies it: no cats",
    ),
    (
        "The pods \"a\" is invalid: : ValidatingAdmissionPolicy 'small' with binding 'here' denied request: too many",
        "DeniedByPolicy",
        "the policy small denies it: too many",
    ),
    (
        f'{CREATING}pods "psa" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
        "DeniedByPodSecurity",
        "the Pod Security level restricted:latest of the namespace denies pods/psa: runAsNonRoot != true",
    ),
    (RETRIEVING, "Forbidden", "jane may not get configmaps"),
    (
        "error: You must be logged in to the server (Unauthorized)",
        "Unauthorized",
        "the cluster does not accept the credentials of this context",
    ),
    (
        (
            'Warning: resource deployments/web is missing the annotation.\nThe Deployment "web" is invalid: spec.selector: '
            'Invalid value: {"matchLabels":{"a":"b","app":"web"}}: field is immutable'
        ),
        "ImmutableField",
        "deployment/web exists, and its spec.selector cannot be changed",
    ),
    (POD_CHANGED, "ImmutableField", "pod/p exists, and its spec cannot be changed"),
    (
        (
            'The StatefulSet "db" is invalid: spec: Forbidden: updates to statefulset spec for fields other than '
            "'replicas', 'template' are forbidden"
        ),
        "ImmutableField",
        "statefulset/db exists, and its spec cannot be changed",
    ),
    (
        CONFLICTS,
        "FieldConflict",
        (
            "kubectl-create owns fields that the manifest would change: .spec.replicas, "
            '.spec.template.spec.containers[name="x"].image'
        ),
    ),
    (
        'The ConfigMap "big" is invalid: metadata.annotations: Too long: may not be more than 262144 bytes',
        "TooLong",
        "configmap/big is too large for kubectl's way of remembering what was applied (262144 bytes)",
    ),
    (
        (
            'Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: '
            'strict decoding error: unknown field "spec.conteiners"'
        ),
        "UnknownField",
        "the manifest has a field that does not exist: spec.conteiners",
    ),
    (
        (
            'Error from server (BadRequest): error when creating "STDIN": Deployment in version "v1" cannot be handled as a '
            "Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        ),
        "WrongType",
        "the field DeploymentSpec.spec.replicas of the manifest is a string, and must be of type int32",
    ),
    (
        (
            "Error from server: failed to create typed patch object (web/web; apps/v1, Kind=Deployment): "
            '.spec.template.spec.containers[name="x"].image: expected string, got &value.valueUnstructured{Value:true}'
        ),
        "WrongValue",
        (
            'the manifest has a value of a wrong type: .spec.template.spec.containers[name="x"].image: expected string, got '
            "&value.valueUnstructured{Value:true}"
        ),
    ),
    (
        f'{CREATING}pods "pp" is forbidden: no PriorityClass with name zz was found',
        "NoPriorityClass",
        "there is no PriorityClass zz",
    ),
    (
        'The Pod "a" is invalid: spec.containers: Required value',
        "Invalid",
        "pod/a is not valid: spec.containers: Required value",
    ),
    (
        'The Service "S_x" is invalid: \n* metadata.name: Invalid value: "S_x"\n* spec.ports[0].port: Invalid value: 0',
        "Invalid",
        'service/S_x is not valid: metadata.name: Invalid value: "S_x"',
    ),
    (
        'Error from server (NotFound): error when creating "STDIN": namespaces "nowhere" not found',
        "NamespaceNotFound",
        "the namespace nowhere does not exist",
    ),
    (
        (
            'error: the namespace from the provided object "a" does not match the namespace "b". You must pass '
            "'--namespace=a' to perform this operation."
        ),
        "OtherNamespace",
        "the manifest says namespace a, and the step says b",
    ),
    (
        (
            "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown "
            "authority"
        ),
        "UntrustedCertificate",
        "the server's certificate is not trusted: certificate signed by unknown authority",
    ),
    (
        "Error in configuration: context was not found for specified context: zz",
        "NoContext",
        "the kubeconfig has no such context: zz",
    ),
    (
        f'{CREATING}pods "a" is forbidden: because',
        "Refused",
        'the cluster forbids it: pods "a" is forbidden: because',
    ),
    ('Error from server (NotFound): pods "nope" not found', "NotFound", "pods/nope does not exist"),
    (
        "error: error parsing STDIN: error converting YAML to JSON: yaml: line 1: did not find expected node content",
        "NotUnderstood",
        "kubectl does not understand the manifest: yaml: line 1: did not find expected node content",
    ),
    (
        f'error: error validating "STDIN": error validating data: [apiVersion not set, kind not set]{HINT_OF_KUBECTL}',
        "NotUnderstood",
        "kubectl does not understand the manifest: [apiVersion not set, kind not set]",
    ),
    (
        "error: unknown flag: --flagg\nSee 'kubectl get --help' for usage.",
        "OldKubectl",
        "this kubectl does not know --flagg",
    ),
    ('error: the path "no.yaml" does not exist', "NoFile", "there is no file no.yaml"),
    (
        "Error from server (BadRequest): the server rejected our request for an unknown reason",
        "BadRequest",
        "the API server does not understand the request: the server rejected our request for an unknown reason",
    ),
    (
        (
            "Error from server: failed to create typed patch object (web/web; apps/v1, Kind=Deployment): .spec.replcas: "
            "field not declared in schema"
        ),
        "UnknownField",
        "the manifest has a field that does not exist: .spec.replcas",
    ),
]

NO_ANSWER = "the API server did not answer in time"
CUT = "the connection to the API server was cut"
TRANSIENT = [
    (
        'Error from server (AlreadyExists): error when creating "STDIN": configmaps "a" already exists',
        "AlreadyExists",
        "configmaps/a was made by somebody else in the meantime",
    ),
    (
        (
            'Error from server (Conflict): error when applying patch:\n{}\nto:\nResource: x\nfor: "STDIN": Operation cannot '
            'be fulfilled on resourcequotas "q": the object has been modified; please apply your changes to the latest '
            "version and try again"
        ),
        "Conflict",
        "the object was changed by somebody else in the meantime",
    ),
    (
        "Error from server (TooManyRequests): the server has received too many requests",
        "TooManyRequests",
        "the API server has too many requests",
    ),
    (
        "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
        "ServiceUnavailable",
        "the API server is not available",
    ),
    ("Error from server: etcdserver: leader changed", "ServiceUnavailable", "the API server is not available"),
    (
        "Error from server (Timeout): the server was unable to return a response in the time allotted",
        "ServerTimeout",
        "the API server took too long",
    ),
    (
        'Error from server (InternalError): an error on the server ("") has prevented the request from succeeding',
        "InternalError",
        "the API server had an internal error",
    ),
    (
        f"{KLOG}{KLOG}The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?",
        "ConnectionRefused",
        "the API server does not take connections",
    ),
    (
        (
            f'{OPENAPI}"http://127.0.0.1:1/openapi/v2?timeout=32s": dial tcp 127.0.0.1:1: connect: connection refused'
            f"{HINT_OF_KUBECTL}"
        ),
        "ConnectionRefused",
        "the API server does not take connections",
    ),
    (KLOG, "ConnectionRefused", "the API server does not take connections"),
    ('error when creating "STDIN": Post "http://x/y": read: connection reset by peer', "ConnectionLost", CUT),
    ("Unable to connect to the server: EOF", "ConnectionLost", CUT),
    ("Unable to connect to the server: http2: client connection lost", "ConnectionLost", CUT),
    ("Unable to connect to the server: net/http: TLS handshake timeout", "NoAnswer", NO_ANSWER),
    ('error: Get "http://x": net/http: request canceled (Client.Timeout exceeded)', "NoAnswer", NO_ANSWER),
    (
        f'{OPENAPI}"http://nohost.invalid/openapi/v2": dial tcp: lookup nohost.invalid on 10.0.0.1:53: no such host',
        "NameNotResolved",
        "the name of the API server cannot be resolved: nohost.invalid",
    ),
    ("Unable to connect to the server: proxyconnect", "Unreachable", "the API server cannot be reached"),
]


@pytest.mark.parametrize(
    ("kind", "stderr", "rule", "sentence"),
    [
        *(("converging", *case) for case in CONVERGING),
        *(("permanent", *case) for case in PERMANENT),
        *(("transient", *case) for case in TRANSIENT),
    ],
)
def test_table(kind: str, stderr: str, rule: str, sentence: str) -> None:
    """Each of kubectl's complaints has its rule, and a sentence of its own."""
    found = classify(stderr)

    assert found is not None
    assert (found.rule.name, found.rule.kind, found.sentence) == (rule, kind, sentence)


def test_every_rule_is_shown() -> None:
    """No rule stands in the shade of one above it."""
    seen = {rule for _, rule, _ in (*CONVERGING, *PERMANENT, *TRANSIENT)}

    assert seen == {rule.name for rule in kubectl_errors.RULES}


@pytest.mark.parametrize("stderr", ["", "something new", "Error from server (Teapot): I am one"])
def test_unknown_words(stderr: str) -> None:
    """Nothing is made up about them."""
    assert classify(stderr) is None


def test_one_hopeless_complaint_is_enough() -> None:
    """Of several objects of a file, one that is refused decides; so does one that nobody understands."""
    wait, never = CONVERGING[4][0], PERMANENT[14][0]

    assert (found := classify(f"{wait}\n{never}")) is not None
    assert found.rule.name == "Invalid"
    assert classify(f"{wait}\nError from server (Teapot): I am one") is None
    assert (found := classify(f"{wait}\n{wait.replace('web', 'other')}")) is not None
    assert found.rule.kind == "converging"


def test_hints() -> None:
    """What to type, with the names of the case; no hint where kubectl did not tell the names."""
    hints = [found.hint for stderr, *_ in (*CONVERGING, *PERMANENT) if (found := classify(stderr))]

    assert hints[0].endswith("kubectl get endpointslices --namespace=web --selector=kubernetes.io/service-name=hook")
    assert "kubectl auth can-i get configmaps --namespace=web" in hints[len(CONVERGING) + 3]
    assert not [hint for hint in hints if "{}" in hint or "= " in f"{hint} " or hint.endswith("=")]
    unnamed = classify('Internal error occurred: failed calling webhook "a.test": Post "https://1.2.3.4/": EOF')
    assert unnamed is not None
    assert unnamed.hint == ""


def test_own_words_once() -> None:
    """Without the noise of klog, and each complaint a single time."""
    refused = "The connection to the server x was refused - did you specify the right host or port?"

    assert words(f"{KLOG}{KLOG}Warning: old\n{refused}\n{refused}\n") == refused
    assert complaints(POD_CHANGED) == [POD_CHANGED.rstrip("\n")]
    assert len(complaints(f"{NO_KIND}{CONFLICTS}")) == 2


PATCHED = """\
Error from server (Invalid): error when applying patch:
{"data":{"a":"EOF, connection refused, already exists, 429 Too Many"}}
to:
Resource: "rbac.authorization.k8s.io/v1, Resource=rolebindings", GroupVersionKind: "rbac.authorization.k8s.io/v1, Kind=RoleBinding"
Name: "rb", Namespace: "web"
for: "STDIN": error when patching "STDIN": RoleBinding.rbac.authorization.k8s.io "rb" is invalid: """


@pytest.mark.parametrize(
    ("stderr", "rule", "sentence"),
    [
        (f"{PATCHED}roleRef: Invalid value: {{}}: cannot change roleRef", "ImmutableField", "rolebinding/rb exists, and its roleRef cannot be changed"),
        (f"{PATCHED}subjects[0].kind: Required value", "Invalid", "rolebinding/rb is not valid: subjects[0].kind: Required value"),
        ('The Service "a" is invalid: spec.clusterIPs[0]: Invalid value: []string{"10.0.0.1"}: may not change once set', "ImmutableField", "service/a exists, and its spec.clusterIPs[0] cannot be changed"),
        ('The PersistentVolumeClaim "c" is invalid: spec: Forbidden: spec is immutable after creation except x', "ImmutableField", "persistentvolumeclaim/c exists, and its spec cannot be changed"),
        ('The StorageClass "s" is invalid: provisioner: Forbidden: updates to provisioner are forbidden.', "ImmutableField", "storageclass/s exists, and its provisioner cannot be changed"),
        ('Error from server (NotFound): pods "web-429" not found', "NotFound", "pods/web-429 does not exist"),
    ],
)  # fmt: skip
def test_words_that_look_like_others(stderr: str, rule: str, sentence: str) -> None:
    """The patch that kubectl repeats may say anything, and so may names."""
    finding = classify(stderr)
    assert finding
    assert (finding.rule.name, finding.rule.kind, finding.sentence) == (rule, "permanent", sentence)
