"""What kubectl's complaints mean: one table from its words to whether the same command can succeed a moment later.

- transient: the way to the server, or the server itself, failed this once; the same command may just work;
- converging: the cluster is on its way to a state in which it will work (a webhook starts, a namespace goes);
- permanent: it will be refused each time, until a person changes something.

kubectl ends with exit code 1 whatever happened, so its words are all there is. Rules are tried from the top: what is
special stands before what is general (a webhook that refuses connections before a server that does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from runner.cluster import absent

Kind = Literal["transient", "converging", "permanent"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. `name` is also the reason of a step that fails by it. `sentence` and `hint` are filled from
    the pattern's groups. `patience` says for how many seconds this is worth trying again; None: while there is time.
    """

    name: str
    kind: Kind
    pattern: re.Pattern[str]
    sentence: str
    hint: str = ""
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a complaint means: the rule that matched, and its words about this very case."""

    rule: Rule
    sentence: str
    hint: str
    groups: Mapping[str, str]


def _rule(name: str, kind: Kind, pattern: str, sentence: str, hint: str = "", patience: float | None = None) -> Rule:
    return Rule(name, kind, re.compile(pattern, re.DOTALL), sentence, hint, patience)


# Who is complained about, where kubectl says it: `pods "app" is forbidden`, `The Pod "app" is invalid`.
_WHO: Final = re.compile(
    r'(?:(?<![-\w.])([a-z][\w.-]*)|\b([A-Z]\w+)(?:\.[\w.-]+)?) "([^"]+)" '
    r"(?:is forbidden|is invalid|already exists|not found)"
)

WEBHOOKS: Final = "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"
"""What to type to see them all."""
# Of one that the API server finds by its Service, the address is told.
_WEBHOOK: Final = (
    r'failed calling webhook "(?P<webhook>[^"]+)"(?:[^\n]*?https://(?P<service>[\w-]+)\.(?P<namespace>[\w-]+)\.svc)?'
)
_NO_ANSWER: Final = (
    r"connection refused|connection reset|no endpoints available|deadline exceeded|i/o timeout|handshake timeout"
    r"|Client\.Timeout|request canceled|no route to host|network is unreachable|no such host|host is down|\bEOF\b"
)

RULES: Final[Sequence[Rule]] = (
    # -- the cluster is on its way
    _rule(
        "WebhookUntrusted",
        "converging",  # its certificate may be made, and told to the API server, after it has started
        rf"{_WEBHOOK}.*?x509: (?P<why>[^\n]+)",
        "the API server does not trust the certificate of the admission webhook {webhook}: {why}",
        f"does the `caBundle` of its configuration belong to the certificate that it serves? {WEBHOOKS}",
        30.0,
    ),
    _rule(
        "WebhookWithoutService",
        "converging",  # it may be applied beside this
        rf'{_WEBHOOK}.*?service "[^"]+" not found',
        "the admission webhook {webhook} is to be served by service/{service} in namespace {namespace}, which does"
        " not exist",
        f"apply that Service, or delete the configuration of the webhook: {WEBHOOKS}",
        10.0,
    ),
    _rule(
        "WebhookNotServing",
        "converging",
        rf"{_WEBHOOK}.*?(?:{_NO_ANSWER})",
        "the admission webhook {webhook} does not answer",
        "is what serves it ready? kubectl get endpointslices --namespace={namespace}"
        " --selector=kubernetes.io/service-name={service}",
    ),
    _rule(
        "WebhookFails",
        "converging",  # while it is rolled out it may answer as it likes
        rf'{_WEBHOOK}(?:[^\n]*?": |: )(?:failed to call webhook: )?(?P<why>[^\n]+)',
        "the admission webhook {webhook} gives no valid answer: {why}",
        f"see the logs of what serves it; its configuration says what that is: {WEBHOOKS} -o yaml",
        10.0,
    ),
    _rule(
        "NoDefaultServiceAccount",
        "converging",
        r'error looking up service account (?P<namespace>[^/\s]+)/default: serviceaccount "default" not found',
        "the namespace {namespace} has no default service account yet",
        "kubectl get serviceaccount default --namespace={namespace}",
    ),
    _rule(
        "NoServiceAccount",
        "converging",
        r'error looking up service account (?P<namespace>[^/\s]+)/(?P<name>[^:\s]+): serviceaccount "[^"]+" not found',
        "there is no service account {name} in the namespace {namespace}",
        "kubectl create serviceaccount {name} --namespace={namespace}, or write it into the manifest",
        3.0,
    ),
    _rule(
        "NamespaceTerminating",
        "converging",
        r"unable to create new content in namespace (?P<namespace>\S+) because it is being terminated",
        "the namespace {namespace} is being deleted",
        "what holds it? kubectl get namespace {namespace} -o jsonpath={{.status.conditions}}",
    ),
    _rule(
        "ObjectTerminating",
        "converging",
        r'object is being deleted: (?P<resource>[\w.-]+) "(?P<name>[^"]+)" already exists',
        "{resource}/{name} of before is still being deleted",
        "what holds it? kubectl get {resource}/{name} -o jsonpath={{.metadata.finalizers}}",
    ),
    _rule(
        "QuotaUncounted",
        "converging",
        r"status unknown for quota: (?P<quota>[^,\s]+)",
        "the quota {quota} is new, and what is used of it is not counted yet",
        "kubectl describe resourcequota {quota}",
    ),
    _rule(
        "QuotaExceeded",
        "converging",  # what was just deleted is still counted for a moment
        r"exceeded quota: (?P<quota>[^,\s]+), requested: (?P<requested>.+?), used: (?P<used>.+?), limited: "
        r"(?P<limited>[^\s]+)",
        "{who} does not fit into the quota {quota}: it wants {requested}, and {used} of {limited} are used",
        "delete what is not needed any more, or raise the quota: kubectl describe resourcequota {quota}",
        3.0,
    ),
    _rule(
        "NoKindMatch",
        "converging",
        r'no matches for kind "(?P<kind>[^"]+)" in version "(?P<version>[^"]+)"',
        "the cluster knows no kind {kind} in {version}",
        "kubectl api-resources shows what it serves; apply its CustomResourceDefinition first",
        5.0,
    ),
    _rule(
        "ResourceNotServed",
        "converging",
        r"the server could not find the requested resource",
        "the server does not serve this resource",
        "kubectl api-resources shows what it serves",
        5.0,
    ),
    # -- refused, each time
    _rule(
        "DeniedByWebhook",
        "permanent",
        r'admission webhook "(?P<webhook>[^"]+)" denied the request(?:: (?P<why>[^\n]+))?',
        "the admission webhook {webhook} denies it: {why}",
        "change the manifest as it asks",
    ),
    _rule(
        "DeniedByPolicy",
        "permanent",
        r"ValidatingAdmissionPolicy '(?P<policy>[^']+)'.*? denied request: (?P<why>[^\n]+)",
        "the policy {policy} denies it: {why}",
        "change the manifest as it asks",
    ),
    _rule(
        "DeniedByPodSecurity",
        "permanent",
        r'violates PodSecurity "(?P<level>[^"]+)": (?P<why>[^\n]+)',
        "the Pod Security level {level} of the namespace denies {who}: {why}",
        "set what it asks for in the Pod's securityContext, or use another namespace",
    ),
    _rule(
        "Forbidden",
        "permanent",
        r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"'
        r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<namespace>[^"]+)")?',
        "{user} may not {verb} {resource}",
        "somebody has to allow it; ask with: kubectl auth can-i {verb} {resource}{in_namespace}",
    ),
    _rule(
        "Unauthorized",
        "permanent",
        r"\(Unauthorized\)|must be logged in to the server|provide credentials|Please enter Username|reading input for"
        r"|^error: EOF$",
        "the cluster does not accept the credentials of this context",
        "log in again, and try: kubectl auth whoami",
    ),
    _rule(
        "ImmutableField",
        "permanent",
        r"(?:is invalid:|\*)\s*(?P<field>[\w.\[\]]+): [^\n]*?(?:field is immutable|may not change fields"
        r"|for fields other than|field can not be changed|cannot be changed|may not change once set"
        r"|cannot change roleRef|is immutable after creation|updates to \w+ are forbidden)",
        "{who} exists, and its {field} cannot be changed",
        "delete it in a step before (`delete: {who}`), or give it another name",
    ),
    _rule(
        "FieldConflict",
        "permanent",
        r'Apply failed with \d+ conflicts?: conflicts? with "(?P<manager>[^"]+)"[^:]*:(?P<fields>.*?)(?:\nPlease|$)',
        "{manager} owns fields that the manifest would change: {fields}",
        "leave them out of the manifest, or apply without `server_side`",
    ),
    _rule(
        "TooLong",
        "permanent",
        r"metadata\.annotations: Too long",
        "{who} is too large for kubectl's way of remembering what was applied (262144 bytes)",
        "apply it with `server_side: true`, which remembers it in another way",
    ),
    _rule(
        "UnknownField",
        "permanent",
        r'unknown field "?(?P<field>[^"\s,)]+)"?|(?P<place>\.[^\s:]+): field not declared in schema',
        "the manifest has a field that does not exist: {field}{place}",
        "mind its spelling and its place; kubectl explain shows what there is",
    ),
    _rule(
        "WrongType",
        "permanent",
        r"cannot unmarshal (?P<got>\w+) into Go struct field (?P<field>\S+) of type (?P<wanted>\S+)",
        "the field {field} of the manifest is a {got}, and must be of type {wanted}",
        "mind its quotes",
    ),
    _rule(
        "WrongValue",
        "permanent",
        r"failed to create typed patch object[^\n]*?\): (?P<why>[^\n]+)",
        "the manifest has a value of a wrong type: {why}",
        "mind its quotes",
    ),
    _rule(
        "NoPriorityClass",
        "permanent",
        r"no PriorityClass with name (?P<name>\S+) was found",
        "there is no PriorityClass {name}",
        "kubectl get priorityclasses",
    ),
    _rule(
        "Invalid",
        "permanent",
        r'(?P<kind>\w+)(?:\.[\w.-]+)? "(?P<name>[^"]*)" is invalid:\s*(?:\* )?(?P<why>[^\n]+)',
        "{who} is not valid: {why}",
        "change the manifest as it asks",
    ),
    _rule(
        "NamespaceNotFound",
        "permanent",
        r'namespaces "(?P<namespace>[^"]+)" not found',
        "the namespace {namespace} does not exist",
        absent.CREATE_NAMESPACE,
    ),
    _rule(
        "OtherNamespace",
        "permanent",
        r'the namespace from the provided object "(?P<own>[^"]+)" does not match the namespace "(?P<asked>[^"]+)"',
        "the manifest says namespace {own}, and the step says {asked}",
        "leave one of them out",
    ),
    _rule(
        "UntrustedCertificate",
        "permanent",
        r"x509: (?P<why>[^\n]+)",
        "the server's certificate is not trusted: {why}",
        "is the context's certificate-authority that of this cluster? kubectl config view --minify",
    ),
    _rule(
        "NoContext",
        "permanent",
        r'context was not found for specified context: (?P<context>\S+)|context "(?P<named>[^"]+)" does not exist',
        "the kubeconfig has no such context: {context}{named}",
        "kubectl config get-contexts",
    ),
    # -- this once; before the general refusals, because `error validating data: … connection refused` is one of these
    _rule(
        "AlreadyExists",
        "transient",
        r"\(AlreadyExists\)|already exists",
        "{who} was made by somebody else in the meantime",
    ),
    _rule(
        "Conflict",
        "transient",
        r"the object has been modified|\(Conflict\)",
        "the object was changed by somebody else in the meantime",
    ),
    _rule(
        "TooManyRequests",
        "transient",
        r"\(TooManyRequests\)|too many requests|(?:status|code|HTTP)\W{0,3}(?:code )?429\b|\b429 Too Many",
        "the API server has too many requests",
    ),
    _rule(
        "ServiceUnavailable",
        "transient",
        r"\(ServiceUnavailable\)|currently unable to handle the request|apiserver not ready|etcdserver: "
        r"|leader changed|apiserver is shutting down",
        "the API server is not available",
    ),
    _rule(
        "ServerTimeout",
        "transient",
        r"\(ServerTimeout\)|\(Timeout\)|the server was unable to return a response in the time allotted"
        r"|could not be completed at this time",
        "the API server took too long",
    ),
    _rule(
        "InternalError",
        "transient",
        r"\(InternalError\)|an error on the server|unable to decode an event|\(Expired\)",
        "the API server had an internal error",
        "",
        20.0,
    ),
    _rule(
        "ConnectionRefused",
        "transient",
        r"connection refused|was refused - did you specify|no route to host|network is unreachable|host is down",
        "the API server does not take connections",
        "is the cluster running? kubectl cluster-info",
    ),
    _rule(
        "ConnectionLost",
        "transient",
        r"connection reset by peer|broken pipe|\bEOF\b|http2: (?:client connection lost|server sent GOAWAY|client conn)"
        r"|use of closed network connection|server closed|stream error|unable to upgrade connection",
        "the connection to the API server was cut",
    ),
    _rule(
        "NoAnswer",
        "transient",
        r"TLS handshake timeout|i/o timeout|context deadline exceeded|Client\.Timeout|timed out waiting for headers"
        r"|request canceled",
        "the API server did not answer in time",
    ),
    _rule(
        "NameNotResolved",
        "transient",
        r"dial tcp: lookup (?P<host>\S+?):? .*?(?:no such host|server misbehaving|try again|Temporary failure)",
        "the name of the API server cannot be resolved: {host}",
        "is the name in the kubeconfig right? kubectl config view --minify",
        5.0,
    ),
    _rule("Unreachable", "transient", r"Unable to connect to the server", "the API server cannot be reached"),
    # -- refused, in general
    _rule(
        "Refused",
        "permanent",
        r"(?:\(Forbidden\): (?:error when [^:]+: )?|is forbidden: )(?P<why>[^\n]+)",
        "the cluster forbids it: {why}",
    ),
    _rule(
        "NotFound",
        "permanent",
        r'\(NotFound\):[^\n]*?(?P<resource>[\w.-]+) "(?P<name>[^"]+)" not found',
        "{resource}/{name} does not exist",
    ),
    _rule(
        "NotUnderstood",
        "permanent",
        r"error converting YAML to JSON: (?P<why>[^\n]+)|error validating data: (?P<reason>.+?)(?:; if you choose|$)",
        "kubectl does not understand the manifest: {why}{reason}",
    ),
    _rule(
        "NoFile",
        "permanent",
        r'the path "(?P<path>[^"]+)" (?:does not exist|cannot be accessed)',
        "there is no file {path}",
    ),
    _rule(
        "OldKubectl",
        "permanent",
        r"unknown (?:flag|shorthand flag|command)[^\n]*?[: ](?P<what>\"?-?-?[\w-]+\"?)(?: for |$|\n)",
        "this kubectl does not know {what}",
        "update it: kubectl version --client",
    ),
    _rule(
        "BadRequest",
        "permanent",
        r"\(BadRequest\): (?P<why>[^\n]+)|The request is invalid(?:: (?P<reason>[^\n]+))?",
        "the API server does not understand the request: {why}{reason}",
    ),
)

# A line with which a complaint begins; what follows belongs to it (the fields of an invalid object, a patch).
_BEGINS: Final = re.compile(
    r"^(?:error:|Error from server|Error in|The \w[\w.]* \S+ is invalid|The request is invalid|The connection to|"
    r"Unable to connect|resource mapping not found|error )",
    re.IGNORECASE,
)
# What is said beside complaints: klog's lines, warnings of the server, what kubectl thinks about its flags.
_NOISE: Final = re.compile(r"^(?:[EWIF]\d{4} |Warning: |W\d{4})")


def classify(stderr: str) -> Finding | None:
    """What stands in the way: of several complaints the one that is hopeless, if any. None for unknown words, which
    are as good as hopeless.
    """
    findings = [_find(complaint) for complaint in complaints(stderr)]
    if not findings or None in findings:
        return None
    found = [finding for finding in findings if finding]
    return next((finding for finding in found if finding.rule.kind == "permanent"), found[0])


_PATCH: Final = re.compile(r"(?<=error when applying patch:)\n.*?(?=\nfor: )", re.DOTALL)
"""What kubectl wanted to change, which may say anything."""


def complaints(stderr: str) -> list[str]:
    """The errors in what kubectl printed, one text each, without the noise around them."""
    found: list[str] = []
    noise: list[str] = []
    for line in stderr.splitlines():
        if _NOISE.match(line):
            noise.append(line)
        elif found and not _BEGINS.match(line):
            found[-1] += f"\n{line}"
        elif line.strip():
            found.append(line)
    return found or noise


def words(stderr: str) -> str:
    """The words of kubectl itself, without noise and repetition."""
    return "\n".join(dict.fromkeys(complaint.strip() for complaint in complaints(stderr)))


def _find(complaint: str) -> Finding | None:
    complaint = _PATCH.sub("", complaint)
    for rule in RULES:
        if match := rule.pattern.search(complaint):
            groups = {name: _listed(value or "") for name, value in match.groupdict().items()}
            groups |= {"who": _who(complaint), "in_namespace": _flag(groups.get("namespace", ""))}
            sentence = _tidy(rule.sentence.format(**groups))
            hint = "" if _lacks(rule.hint, groups) else rule.hint.format(**groups)
            return Finding(rule, sentence, hint, groups)
    return None


def _who(complaint: str) -> str:
    """The object that a complaint is about, as kubectl takes it: `pods/app`; `the object` when it does not say."""
    if match := _WHO.search(complaint):
        kind = match[1] or match[2].lower()
        return f"{kind}/{match[3]}"
    return "the object"


def _listed(value: str) -> str:
    """A group on one line; the items of a list after each other."""
    return " ".join(value.replace("\n- ", ", ").strip(", \n").split())


def _flag(namespace: str) -> str:
    return f" --namespace={namespace}" if namespace else ""


def _lacks(hint: str, groups: Mapping[str, str]) -> bool:
    """Whether a hint names something that kubectl did not tell."""
    return any(f"{{{name}}}" in hint and not value for name, value in groups.items() if name != "in_namespace")


def _tidy(sentence: str) -> str:
    return re.sub(r"\s+", " ", sentence).strip().removesuffix(":")
