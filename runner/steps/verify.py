"""Ask over HTTP (or open a TCP connection) until the answer is as expected.

It repeats on refused and cut connections, timeouts and unmet expectations until its `timeout`; `retry: 1` asks once. A
request that is not idempotent (POST, PATCH) is repeated only when it surely was not sent. What cannot get better, such
as a certificate that is not trusted, fails at once. A failure says what was asked and what came, how it differs, and
what the cluster knows about the Pods behind a forward. `localhost` means what a `forward` of this run bound there, then
127.0.0.1, then ::1. Proxies of the environment (HTTP_PROXY) are never used. A body may have 16 MiB; gzip, deflate and
charsets are understood.

```yaml
- verify: "http://localhost:5000/"
- verify: {url: "${{ steps.web.outputs.url }}/health", status: 200, contains: Hello}
- verify:
    url: "http://localhost:5000/items"
    request: {method: POST, json: {name: cup}, timeout: 2s}
    status: [201, 409]
    headers: {Content-Type: {contains: json}, X-Api: "2"}
    json: {name: cup}
    that: response.json.id > 0 && response.elapsed < 0.5
    max_elapsed: 500ms
- verify: {tcp: "localhost:5432"}
```

**TLS and credentials.** Files are PEM, relative to the workflow. Without `ca`, what the system trusts is trusted.
Credentials come from secret inputs, are masked in everything that is printed, and go to no other host after a redirect.

```yaml
- verify:
    url: "https://localhost:8443/"
    tls: {ca: certs/ca.pem, cert: certs/client.pem, key: certs/client-key.pem, server_name: shop.example.com}
    request: {auth: {bearer: "${{ inputs.token }}"}, follow_redirects: true}
- verify:
    url: "https://localhost:8443/"
    tls: {insecure: true}
    request: {auth: {basic: {username: me, password: "${{ inputs.token }}"}}}
```

**More than once.** `consecutive` wants so many good answers in a row. `throughout` then goes on asking, 20 times a
second, for a time or while steps run, and fails when more than `max_failures` asks did; the report says how many there
were, and the longest time without a good answer. A forward holds connections back while its Pod is away, so an ask
that takes longer than 2 s counts as failed; `max_elapsed` and `request.timeout` set a limit of your own. The steps are
ordinary ones, run in order; a `forward` among them ends with them. They are run to their end even when asks fail
meanwhile, so that the report has the whole gap. Where the step has no `timeout` of its own, it has the default for the
first good answer, and on top of it the time of `throughout`.

```yaml
- verify: {url: "http://localhost:5000/", consecutive: 5}
- verify: {url: "http://localhost:5000/", throughout: 30s, max_failures: 2}
- name: A rollout without downtime
  verify:
    url: "http://localhost:5000/"
    throughout:
      - run: kubectl rollout restart deployment/web
      - wait: {target: deployment/web, until: ready}
```
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from runner import confidential, masking
from runner.errors import Expired, StepFailed, TimedOut
from runner.steps import kind, matching
from runner.steps.bounds import STAY_INSIDE, leaves
from runner.steps.kind import Cel, Context, Duration, Fault, Files, Match, Output, Scene, Steps, seconds

if TYPE_CHECKING:
    from runner.deadline import Deadline
    from runner.steps.asking import Question
    from runner.steps.expecting import Try
    from runner.steps.kind import Forwarded
    from runner.steps.throughout import Record

NAME: Final = "verify"
SHORT: Final = "url"
TIMEOUT: Final = "30s"
RETRY: Final = "count"
EXPRESSIONS: Final = {"that": ("response",)}
OUTPUTS: Final = {
    "status": Output("int", "The status code; 0 for tcp."),
    "headers": Output(
        "map",
        "The header fields, names in lower case. Several of one name are joined by `, `, those of `set-cookie` by line "
        "breaks.",
    ),
    "body": Output("string", "The body as text."),
    "json": Output("dyn", "The body, parsed, when it is JSON; else null."),
    "elapsed": Output("double", "Seconds that the answer took."),
    "attempts": Output("int", "How often it asked."),
}

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_SHOWN_BODY: Final = 2000

Status = Annotated[int, Meta(ge=100, le=599)] | Annotated[str, Meta(pattern=r"^[1-5]([0-9][0-9]|xx)$")]


class Basic(kind.Args, frozen=True):
    """HTTP basic authentication."""

    username: Annotated[str, Meta(description="The name.")]
    password: Annotated[str, Meta(description="The password, from a secret input.")]


class Auth(kind.Args, frozen=True):
    """Credentials: one of these."""

    basic: Annotated[Basic | None, Meta(description="A name and a password: `{username, password}`.")] = None
    bearer: Annotated[str, Meta(description="A token, from a secret input.")] = ""


class Request(kind.Args, frozen=True):
    """How to ask."""

    method: Annotated[str, Meta(pattern=r"^[A-Z]+$", description="The method, in capitals.")] = "GET"
    headers: Annotated[dict[str, str], Meta(description="Header fields to send.")] = {}
    json: Annotated[Any, Meta(description="A body: this value as JSON.")] = msgspec.UNSET
    body: Annotated[str | None, Meta(description="A body: this text.")] = None
    form: Annotated[dict[str, str] | None, Meta(description="A body: these fields, as a browser sends a form.")] = None
    auth: Annotated[Auth | None, Meta(description="Credentials: `basic` or `bearer`.")] = None
    follow_redirects: Annotated[bool, Meta(description="Go where a 3xx answer points (ten times at most).")] = False
    timeout: Annotated[
        Duration, Meta(description="How long one attempt may take. Default: 5s, and 2s with `throughout`.")
    ] = ""


class Tls(kind.Args, frozen=True):
    """How to trust the other end of https, and what to show it. Files are PEM."""

    ca: Annotated[str, Meta(description="The file with the certificate of the authority to trust.")] = ""
    cert: Annotated[str, Meta(description="The file with the client certificate to present.")] = ""
    key: Annotated[str, Meta(description="The file with its key, when that is not in the same file.")] = ""
    server_name: Annotated[
        str, Meta(description="The name to ask for (SNI) and to find in the certificate, when it is not the URL's.")
    ] = ""
    insecure: Annotated[bool, Meta(description="Trust any certificate.")] = False


class Args(Match, frozen=True):
    """What to ask, and what to expect."""

    url: Annotated[str, Meta(description="What to ask: `http://…` or `https://…`.")] = ""
    tcp: Annotated[str, Meta(description="`host:port`: a connection is all that is expected.")] = ""
    status: Annotated[
        Status | tuple[Status, ...], Meta(description="The status: `200`, `2xx`, or a list of these.")
    ] = "2xx"
    headers: Annotated[
        dict[str, str | Match], Meta(description="Header fields: a text (exactly that), or a match.")
    ] = {}
    that: Annotated[
        Cel, Meta(description="A CEL expression over `response`: status, headers, body, json, elapsed.")
    ] = ""
    max_elapsed: Annotated[Duration, Meta(description="How long the answer may take.")] = ""
    consecutive: Annotated[int, Meta(ge=1, le=1000, description="How many good answers in a row.")] = 1
    throughout: Annotated[
        Duration | Steps, Meta(description="Then go on asking for this time, or all the time while these steps run.")
    ] = ""
    max_failures: Annotated[int, Meta(ge=0, description="How many asks may fail during `throughout`.")] = 0
    request: Annotated[Request, Meta(description="The request, when it is more than a GET.")] = Request()
    tls: Annotated[Tls, Meta(description="Certificates for https.")] = Tls()


# What may stand beside `tcp`.
_OF_TCP: Final = frozenset({"tcp", "max_elapsed", "consecutive", "throughout", "max_failures", "request"})

needs_cluster = kind.never_cluster
wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
commands = kind.no_commands
homeless = kind.no_objects


def title(data: Mapping[str, Any]) -> str:
    return str(data.get("url") or f"tcp {data.get('tcp', '')}")


def lasts(data: Mapping[str, Any]) -> float:
    throughout = data.get("throughout")
    return seconds(throughout) if isinstance(throughout, str) else 0.0


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    if ("url" in data) == ("tcp" in data):
        yield Fault((), "give `url` or `tcp`, one of them")
    if "tcp" in data:
        for key in data.keys() - _OF_TCP:
            yield Fault((key,), f"`{key}` belongs to HTTP; with `tcp` there is only a connection to expect")
        for key in _map(data.get("request")).keys() - {"timeout"}:
            yield Fault(("request", key), f"`{key}` belongs to HTTP; with `tcp` there is only `timeout`")
    yield from _address_faults(data)
    yield from matching.faults(data, ())
    for name, wanted in _map(data.get("headers")).items():
        if isinstance(wanted, Mapping):
            yield from matching.faults(wanted, ("headers", name))
    yield from _request_faults(_map(data.get("request")))
    yield from _repetition_faults(data)
    yield from _tls_faults(data, files)


def _request_faults(request: Mapping[str, Any]) -> Iterator[Fault]:
    bodies = [key for key in ("json", "body", "form") if key in request]
    for key in bodies[1:]:
        yield Fault(("request", key), f"a request has one body: `{bodies[0]}` or `{key}`")
    auth = _map(request.get("auth"))
    for name, value in _map(request.get("headers")).items():
        if isinstance(value, str) and "${{" not in f"{name}{value}" and (why := _bad_field(name, value)):
            yield Fault(("request", "headers", name), why)
        if auth and name.lower() == "authorization":
            yield Fault(("request", "headers", name), "`auth` sets this field, too", "leave one of them out")
    if "auth" in request and ("basic" in auth) == ("bearer" in auth):
        yield Fault(("request", "auth"), "credentials are `basic` or `bearer`, one of them")
    for path, secret in (
        (("bearer",), auth.get("bearer")),
        (("basic", "password"), _map(auth.get("basic")).get("password")),
    ):
        if isinstance(secret, str) and "${{" not in secret:
            yield Fault(
                ("request", "auth", *path),
                "everybody who reads this file reads this secret",
                "declare an input with `secret: true` and `env: NAME`, and write ${{ inputs.NAME }} here",
                "warning",
            )


def _repetition_faults(data: Mapping[str, Any]) -> Iterator[Fault]:
    from runner.steps.curl import IDEMPOTENT

    method = _map(data.get("request")).get("method", "GET")
    for key in ("consecutive", "throughout"):
        if key in data and data[key] != 1 and method not in IDEMPOTENT and "${{" not in str(method):
            yield Fault((key,), f"`{key}` asks again and again, and every {method} may have its effect", "ask with GET")
    if "max_failures" in data and "throughout" not in data:
        yield Fault(("max_failures",), "`max_failures` counts what fails during `throughout`, and there is none")
    if data.get("throughout") == []:
        yield Fault(("throughout",), "there are no steps to ask throughout of", "write a duration or steps")


def _tls_faults(data: Mapping[str, Any], files: Files) -> Iterator[Fault]:
    tls = _map(data.get("tls"))
    if tls and str(data.get("url", "")).startswith("http:"):
        yield Fault(("tls",), "`tls` is for https, and the URL begins with http:", "write https://")
    if "key" in tls and "cert" not in tls:
        yield Fault(("tls", "key"), "a key is presented with its certificate: give `cert`, too")
    if tls.get("insecure") is True and "ca" in tls:
        yield Fault(
            ("tls", "insecure"), "`insecure` trusts any certificate, so that `ca` has no effect", "leave one out"
        )
    for key in ("ca", "cert", "key"):
        name = tls.get(key)
        if not isinstance(name, str) or "${{" in name or name in files.made:
            continue
        if outside := leaves(files.folder / name, files.root):
            yield Fault(("tls", key), outside, STAY_INSIDE)
        elif not (files.folder / name).is_file():
            hint = f"a `run` step before that makes it says so with `generates: [{name}]`"
            yield Fault(("tls", key), f"there is no file {name}", hint)


def equivalent(args: Args, scene: Scene) -> tuple[str, ...]:
    """Bash with the functions `verify`, `keep_asking` and `stop_asking` of a planned script."""
    from runner.steps import curl

    return tuple(curl.lines(args, scene))


def run(args: Args, context: Context) -> dict[str, Any]:
    from runner.steps import curl, expecting

    context.observed(curl.short(args))
    question = _question(args, context)
    last, attempts = _await(question, args, context)
    if args.throughout:
        record = _throughout(question, args, context)
        context.show(str(record))
        last, attempts = record.good or last, attempts + record.asks
    assert last.answer  # noqa: S101 - it was as expected
    return {**expecting.response(last.answer), "attempts": attempts}


def _ask(question: Question, args: Args, context: Context, limit: Deadline) -> Try:
    """Ask once. Raises `StepFailed` for what cannot get better, and the exceptions of `limit`."""
    from runner.steps.asking import Lost
    from runner.steps.expecting import Try, differences

    try:
        answer = question.ask(limit, context.forwarded)
    except Lost as lost:
        return Try((lost.why,), None, lost.sent, lost.mute)
    return Try(differences(args, answer, lambda response: context.evaluate("that", response=response)), answer)


class _Tally(msgspec.Struct, frozen=True):
    """How the asking stands: asks begun, failed ones, good ones in a row, the last that failed, the next pause."""

    asked: int = 0
    failed: int = 0
    row: int = 0
    bad: Try | None = None
    pause: float = _FIRST_PAUSE

    def after(self, tried: Try) -> _Tally:
        if not tried.wrong:
            return _Tally(self.asked, self.failed, self.row + 1, self.bad)
        pause = min(_LONGEST_PAUSE, self.pause * 2) if self.failed and not self.row else _FIRST_PAUSE
        return _Tally(self.asked, self.failed + 1, 0, tried, pause)


def _await(question: Question, args: Args, context: Context) -> tuple[Try, int]:
    """(the answer that was as expected at last, or the last of so many in a row; how often it was asked)."""
    tally = _Tally()
    with context.deadline.child(context.scene.patience) as deadline:
        while True:
            tally = msgspec.structs.replace(tally, asked=tally.asked + 1)
            try:
                tried = _ask(question, args, context, deadline)
                tally = tally.after(tried)
                if tally.row >= args.consecutive:
                    return tried, tally.asked
                if tried.wrong:
                    _check_again(question, context, tried, tally.failed, deadline)
                deadline.pause(tally.pause)
            except Expired:
                raise _out_of_time(question, args, context, tally) from None


def _check_again(question: Question, context: Context, tried: Try, failed: int, deadline: Deadline) -> None:
    """Raise `StepFailed` when there is no use in asking again, or it may not be."""
    from runner.steps.curl import IDEMPOTENT

    if tried.mute and (refusal := question.refusal(deadline, context.forwarded)):
        raise refusal
    if tried.sent and question.method not in IDEMPOTENT:
        why = f"it was not asked again, because a {question.method} may have had its effect"
        raise _failure(question, context, tried, hint=why)
    if failed == context.attempts:
        raise _failure(question, context, tried)
    context.waiting(f"{question}: {_first(tried)}")


def _throughout(question: Question, args: Args, context: Context) -> Record:
    """Ask all the time while the time passes or the steps run; raises `StepFailed` when that was not good enough."""
    from runner.steps.throughout import Asker

    context.waiting(f"{question}: as expected, asking all the time")
    with Asker(partial(_ask, question, args, context), context.deadline, args.max_failures) as asker:
        if isinstance(args.throughout, str):
            asker.wait(seconds(args.throughout))
        else:
            try:
                context.run_steps("throughout")
            except StepFailed as error:
                record = asker.stop()
                details = "\n".join([str(record), *([_details(record.worst)] if record.worst else ())])
                raise StepFailed(error.message, hint=error.hint, reason=error.reason, details=details) from None
        record = asker.stop()
    if record.failures > args.max_failures:
        assert record.worst  # noqa: S101 - there were failures
        reasons = [f"{number} × {reason}" for reason, number in record.reasons.items()]
        raise _failure(question, context, record.worst, told=str(record), reasons=reasons)
    return record


def _failure(
    question: Question,
    context: Context,
    last: Try,
    *,
    told: str = "",
    hint: str = "",
    reasons: Iterable[str] = (),
    error: type[StepFailed] = StepFailed,
) -> StepFailed:
    """What was asked, what came, and what the cluster knows about the other end."""
    from runner.steps import other_end

    why, known = other_end.known(context, *question.place)
    return error(
        f"{question}: {told or _first(last)}",
        hint=hint or why or _hint(question, last, context.forwards()),
        reason="timeout" if error is TimedOut else "verify",
        details="\n".join(part for part in (*reasons, _details(last), known) if part),
    )


def _out_of_time(question: Question, args: Args, context: Context, tally: _Tally) -> StepFailed:
    from runner.steps.expecting import Try

    bad = tally.bad or Try(("no answer yet",))
    times = "once" if tally.asked == 1 else f"{tally.asked} times"
    came = f"the last time: {_first(bad)}"
    if tally.row:
        came = f"{tally.row} good answers in a row at last, and {args.consecutive} are wanted"
    told = f"asked {times} in {context.scene.patience:g} s; {came}"
    return _failure(question, context, bad, told=told, error=TimedOut)


def _question(args: Args, context: Context) -> Question:
    from runner.steps import curl
    from runner.steps.asking import Question
    from runner.steps.tls import Security

    if faults := [fault.message for fault in _address_faults({"url": args.url} if args.url else {"tcp": args.tcp})]:
        raise StepFailed(faults[0], reason="verify")  # it came from an expression
    request, tls = args.request, args.tls
    headers = {**curl.headers(request), **_credentials(request.auth)}
    if not any(name.lower() == "user-agent" for name in headers):
        headers["User-Agent"] = "runner"
    for name, value in headers.items():
        if why := _bad_field(name, value):
            raise StepFailed(f"this request cannot be sent: {why}", reason="verify")  # so did this
    ca, cert, key = (str(context.scene.inside(name)) if name else "" for name in (tls.ca, tls.cert, tls.key))
    security = Security(ca, cert, key, tls.server_name, tls.insecure)
    return Question(
        url=args.url,
        tcp=args.tcp,
        method=request.method,
        headers=headers,
        body=curl.body(request),
        timeout=curl.patience(args),
        follow=request.follow_redirects,
        security=security,
        secure=security.context() if args.url.startswith("https:") else None,
    )


def _credentials(auth: Auth | None) -> dict[str, str]:
    """The field of the request that carries them; they are masked from now on, however the other end repeats them."""
    if auth is None:
        return {}
    if auth.basic is None:
        secrets, value = [auth.bearer], f"Bearer {auth.bearer}"
    else:
        packed = b64encode(f"{auth.basic.username}:{auth.basic.password}".encode()).decode()
        secrets, value = [auth.basic.password, packed], f"Basic {packed}"
    masking.hide(secret for secret in secrets if confidential.worth_hiding(secret))
    return {"Authorization": value}


def _first(last: Try) -> str:
    more = f" (and {len(last.wrong) - 1} more)" if len(last.wrong) > 1 else ""
    return last.wrong[0].splitlines()[0] + more


def _hint(question: Question, last: Try, forwards: Mapping[int, Forwarded]) -> str:
    host, _ = question.place
    if last.answer is not None:
        return ""
    if host in ("localhost", "127.0.0.1", "::1"):
        if "refused" not in last.wrong[0]:
            return ""
        if others := ", ".join(f"{port} ({forward.target})" for port, forward in forwards.items()):
            return f"this run forwards {others}: did you mean that?"
        return "nothing listens there: a `forward` step makes the port of a Pod reachable on this machine"
    own = "HTTPS_PROXY" if question.url.startswith("https:") else "HTTP_PROXY"
    for name in (own, "ALL_PROXY"):
        if os.environ.get(name) or os.environ.get(name.lower()):
            return f"{name} is set, but `verify` uses no proxies: {host} must be reachable directly"
    return ""


def _details(last: Try) -> str:
    lines = list(last.wrong)
    if (answer := last.answer) and answer.status:
        lines.append(f"the answer: {answer.status} {answer.reason} in {answer.elapsed:.3f} s")
        for name, value in answer.headers.items():
            lines += [f"  {name}: {line}" for line in _beginning(value).splitlines() or ("",)]
        lines += ["", *(f"  {line}" for line in _beginning(answer.body).splitlines())]
    return "\n".join(lines)


def _beginning(text: str) -> str:
    return text if len(text) <= _SHOWN_BODY else f"{text[:_SHOWN_BODY]}…"


def _bad_field(name: str, value: str) -> str:
    """Why a header field cannot be sent as it is. The value may be a secret."""
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        return f"{name!r} is not the name of a header field: it is of letters, digits and hyphens, without the colon"
    if found := re.search(r"[\0-\x08\x0a-\x1f\x7f]", value):
        what = "a line break" if found[0] in "\r\n" else "a control character"
        return f"the value of {name} has {what} in it, which no header field may have"
    if found := re.search(r"[^\0-\xff]", value):
        return f"the value of {name} has the character {found[0]} in it, which header fields cannot carry"
    return ""


def _address_faults(data: Mapping[str, Any]) -> Iterator[Fault]:
    url, tcp = data.get("url"), data.get("tcp")
    if isinstance(url, str) and "${{" not in url and (why := _bad_url(url)):
        yield Fault(("url",), f"{url!r} is not a URL that can be asked: {why}", "write http://host:port/path")
    if isinstance(tcp, str) and "${{" not in tcp:
        host, _, port = tcp.rpartition(":")
        bare = ":" in host and not re.fullmatch(r"\[[0-9A-Fa-f:.%]+\]", host)
        if not host or bare or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= kind.HIGHEST_PORT:
            yield Fault(("tcp",), f"{tcp!r} is not an address", "write host:port, as in localhost:5432 or [::1]:5432")


def _bad_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https"):
        return "it must begin with http:// or https://"
    if not parts.hostname:
        return "it names no host"
    if parts.username is not None:
        return "it has credentials in it, which everybody sees; write them under request: {auth: …}"
    if any(ord(character) <= ord(" ") for character in url):
        return "it has a space or a control character in it; write %20 for a space"
    return "the port is not between 1 and 65535" if port == 0 else ""


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
