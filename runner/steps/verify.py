"""Ask over HTTP (or open a TCP connection) until the answer is as expected.

It repeats on refused and cut connections, timeouts and unmet expectations until its `timeout`; a request that is not
idempotent (POST, PATCH) is repeated only when it surely was not sent. Proxies of the environment are never used.
`localhost` means what a `forward` of this run bound there, then 127.0.0.1, then ::1.

```yaml
- verify: "http://localhost:5000/"
- verify: {url: "${{ steps.web.outputs.url }}/health", status: 200, contains: Hello}
- verify:
    url: "http://localhost:5000/items"
    request: {method: POST, json: {name: cup}}
    status: 201
    headers: {Content-Type: {contains: json}}
    json: {name: cup}
    that: response.json.id > 0
    max_elapsed: 500ms
- verify: {tcp: "localhost:5432"}
```
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Meta

from runner.errors import Expired, StepFailed, TimedOut
from runner.steps import kind, matching
from runner.steps.kind import Cel, Context, Duration, Fault, Files, Match, Output, Scene, seconds

if TYPE_CHECKING:
    from runner.steps.asking import Answer, Question

NAME: Final = "verify"
SHORT: Final = "url"
TIMEOUT: Final = "30s"
REPEATABLE: Final = False
EXPRESSIONS: Final = {"that": ("response",)}
OUTPUTS: Final = {
    "status": Output("int", "The status code; 0 for tcp."),
    "headers": Output("map", "The header fields, names in lower case."),
    "body": Output("string", "The body as text."),
    "json": Output("dyn", "The body, parsed, when it is JSON; else null."),
    "elapsed": Output("double", "Seconds that the answer took."),
    "attempts": Output("int", "How often it asked."),
}

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_SHOWN_BODY: Final = 2000

Status = Annotated[int, Meta(ge=100, le=599)] | Annotated[str, Meta(pattern=r"^[1-5]([0-9][0-9]|xx)$")]


class Request(kind.Args, frozen=True):
    """How to ask."""

    method: Annotated[str, Meta(pattern=r"^[A-Z]+$", description="The method, in capitals.")] = "GET"
    headers: Annotated[dict[str, str], Meta(description="Header fields to send.")] = {}
    json: Annotated[Any, Meta(description="A body: this value as JSON.")] = msgspec.UNSET
    body: Annotated[str | None, Meta(description="A body: this text.")] = None
    form: Annotated[dict[str, str] | None, Meta(description="A body: these fields, as a browser sends a form.")] = None
    follow_redirects: Annotated[bool, Meta(description="Go where a 3xx answer points (ten times at most).")] = False
    timeout: Annotated[Duration, Meta(description="How long one attempt may take.")] = "5s"


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
    request: Annotated[Request, Meta(description="The request, when it is more than a GET.")] = Request()


needs_cluster = kind.never_cluster
wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
commands = kind.no_commands


def title(data: Mapping[str, Any]) -> str:
    return str(data.get("url") or f"tcp {data.get('tcp', '')}")


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    if ("url" in data) == ("tcp" in data):
        yield Fault((), "give `url` or `tcp`, one of them")
    if "tcp" in data:
        for key in data.keys() - {"tcp"}:
            yield Fault((key,), f"`{key}` belongs to HTTP; with `tcp` there is only a connection to expect")
    yield from _address_faults(data)
    yield from matching.faults(data, ())
    for name, wanted in _map(data.get("headers")).items():
        if isinstance(wanted, Mapping):
            yield from matching.faults(wanted, ("headers", name))
    bodies = [key for key in ("json", "body", "form") if key in _map(data.get("request"))]
    for key in bodies[1:]:
        yield Fault(("request", key), f"a request has one body: `{bodies[0]}` or `{key}`")


def equivalent(args: Args, scene: Scene) -> tuple[str, ...]:
    """Bash with the function `verify` of a planned script: `verify SECONDS STATUS TEXT curl …`."""
    limit = f"{max(1, round(scene.timeout))}"
    if args.tcp:
        host, _, port = args.tcp.rpartition(":")
        return (f"verify {limit} '' '' curl --output - {shlex.quote(f'telnet://{host}:{port}')}",)
    statuses = args.status if isinstance(args.status, tuple) else (args.status,)
    pattern = "|".join(str(status).replace("x", "?") for status in statuses)
    texts = (args.contains,) if isinstance(args.contains, str) else args.contains
    argv = ["verify", limit, pattern if len(statuses) == 1 else f"@({pattern})", texts[0] if texts else "", "curl"]
    unseen = [f"contains {text}" for text in texts[1:]]
    rest = {"matches": args.matches, "equals": args.equals, "that": args.that, "max_elapsed": args.max_elapsed}
    unseen += [f"{key} {value}" for key, value in rest.items() if value]
    unseen += [f"headers {', '.join(args.headers)}"] if args.headers else []
    unseen += [] if args.json is msgspec.UNSET else [f"json {json.dumps(args.json)}"]
    remarks = [f"# {NAME} also expects: {' '.join(text.split())}" for text in unseen]
    return (*remarks, shlex.join([*argv, *_curl(args.request), args.url]))


def run(args: Args, context: Context) -> dict[str, Any]:
    context.observed(f"curl {args.url}" if args.url else f"curl telnet://{args.tcp}")
    question = _question(args)
    pause, attempt = _FIRST_PAUSE, 0
    last = _Try(["no answer yet"])
    while True:
        attempt += 1
        try:
            last = _try(question, args, context)
            if last.answer and not last.wrong:
                return _outputs(last.answer, attempt)
            if last.sent and question.method not in _IDEMPOTENT:
                raise _not_again(question, last)
            context.waiting(f"{question}: {_first(last.wrong)}")
            context.deadline.pause(pause)
        except Expired:
            raise _out_of_time(question, last, attempt, context.scene.timeout) from None
        pause = min(_LONGEST_PAUSE, pause * 2)


class _Try(msgspec.Struct, frozen=True):
    """What came of asking once: what is wrong with it (nothing: it is as expected), and whether it was sent at all."""

    wrong: list[str]
    answer: Answer | None = None
    sent: bool = True


def _try(question: Question, args: Args, context: Context) -> _Try:
    from runner.steps.asking import Lost

    try:
        answer = question.ask(context)
    except Lost as lost:
        return _Try([lost.why], None, lost.sent)
    return _Try(_differences(args, answer, context), answer)


def _not_again(question: Question, last: _Try) -> StepFailed:
    return StepFailed(
        f"{question}: {_first(last.wrong)}",
        hint=f"it was not asked again, because a {question.method} may have had its effect",
        reason="verify",
        details=_details(last),
    )


def _out_of_time(question: Question, last: _Try, attempts: int, limit: float) -> TimedOut:
    times = "once" if attempts == 1 else f"{attempts} times"
    return TimedOut(
        f"{question}: asked {times} in {limit:g} s; the last time: {_first(last.wrong)}",
        hint=_hint(question, last),
        reason="timeout",
        details=_details(last),
    )


def _question(args: Args) -> Question:
    from runner.steps.asking import Question

    request = args.request
    body, headers = _body(request), dict(request.headers)
    if body is not None and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = _content_type(request)
    if faults := [fault.message for fault in _address_faults({"url": args.url} if args.url else {"tcp": args.tcp})]:
        raise StepFailed(faults[0], reason="verify")  # it came from an expression
    return Question(
        url=args.url,
        tcp=args.tcp,
        method=request.method,
        headers=headers,
        body=body,
        timeout=seconds(request.timeout),
        follow=request.follow_redirects,
    )


def _differences(args: Args, answer: Answer, context: Context) -> list[str]:
    if args.tcp:
        return []
    return [
        *_status_differences(args, answer),
        *_header_differences(args, answer),
        *matching.differences(args, answer.body),
        *_unheld(args, answer, context),
        *(
            [f"expected an answer within {args.max_elapsed}, it took {answer.elapsed:.3f} s"]
            if args.max_elapsed and answer.elapsed > seconds(args.max_elapsed)
            else []
        ),
    ]


def _status_differences(args: Args, answer: Answer) -> Iterator[str]:
    wanted = args.status if isinstance(args.status, tuple) else (args.status,)
    got = str(answer.status)
    if not any(got == str(one) or (str(one).endswith("xx") and got[0] == str(one)[0]) for one in wanted):
        yield f"expected status {' or '.join(map(str, wanted))}, got {got} {answer.reason}".rstrip()


def _header_differences(args: Args, answer: Answer) -> Iterator[str]:
    for name, wanted in args.headers.items():
        value = answer.headers.get(name.lower())
        if value is None:
            yield f"header {name}: expected one, there is none"
            continue
        match = Match(equals=wanted) if isinstance(wanted, str) else wanted
        yield from (f"header {name}: {difference}" for difference in matching.differences(match, value))


def _unheld(args: Args, answer: Answer, context: Context) -> Iterator[str]:
    if not args.that:
        return
    from runner.expressions import EvaluationError

    try:
        if context.evaluate("that", response=_response(answer)) is not True:
            yield f"expected that {args.that}"
    except EvaluationError as error:
        yield f"expected that {args.that}, but {error.message}"


def _response(answer: Answer) -> dict[str, Any]:
    return {
        "status": answer.status,
        "headers": dict(answer.headers),
        "body": answer.body,
        "json": matching.parsed(answer.body),
        "elapsed": answer.elapsed,
    }


def _outputs(answer: Answer, attempts: int) -> dict[str, Any]:
    return {**_response(answer), "attempts": attempts}


def _body(request: Request) -> bytes | None:
    if request.json is not msgspec.UNSET:
        return json.dumps(request.json).encode()
    if request.form is not None:
        return urlencode(request.form).encode()
    return None if request.body is None else request.body.encode()


def _content_type(request: Request) -> str:
    if request.json is not msgspec.UNSET:
        return "application/json"
    return "text/plain; charset=utf-8" if request.form is None else "application/x-www-form-urlencoded"


def _curl(request: Request) -> Iterator[str]:
    body = _body(request)
    if request.method == "HEAD":
        yield "--head"
    elif request.method != ("GET" if body is None else "POST"):
        yield from ("--request", request.method)
    if body is not None:
        if not any(name.lower() == "content-type" for name in request.headers):
            yield from ("--header", f"Content-Type: {_content_type(request)}")
        yield from ("--data-raw", body.decode())
    for name, value in request.headers.items():
        yield from ("--header", f"{name}: {value}")
    if request.follow_redirects:
        yield "--location"


def _first(wrong: list[str]) -> str:
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return wrong[0].splitlines()[0] + more


def _hint(question: Question, last: _Try) -> str:
    host = urlsplit(question.url or f"tcp://{question.tcp}").hostname
    if last.answer is None and "refused" in last.wrong[0] and host in ("localhost", "127.0.0.1", "::1"):
        return "nothing listens there: a `forward` step makes the port of a Pod reachable on this machine"
    return ""


def _details(last: _Try) -> str:
    lines = list(last.wrong)
    if (answer := last.answer) and answer.status:
        lines.append(f"the answer: {answer.status} {answer.reason} in {answer.elapsed:.3f} s")
        lines += [f"  {name}: {value}" for name, value in answer.headers.items()]
        body = answer.body if len(answer.body) <= _SHOWN_BODY else f"{answer.body[:_SHOWN_BODY]}…"
        lines += ["", *(f"  {line}" for line in body.splitlines())]
    return "\n".join(lines)


def _address_faults(data: Mapping[str, Any]) -> Iterator[Fault]:
    url, tcp = data.get("url"), data.get("tcp")
    if isinstance(url, str) and "${{" not in url and (why := _bad_url(url)):
        yield Fault(("url",), f"{url!r} is not a URL that can be asked: {why}", "write http://host:port/path")
    if isinstance(tcp, str) and "${{" not in tcp:
        host, _, port = tcp.rpartition(":")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= kind.HIGHEST_PORT:
            yield Fault(("tcp",), f"{tcp!r} is not an address", "write host:port, as in localhost:5432")


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
    if any(ord(character) <= ord(" ") for character in url):
        return "it has a space or a control character in it; write %20 for a space"
    return "the port is not between 1 and 65535" if port == 0 else ""


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
