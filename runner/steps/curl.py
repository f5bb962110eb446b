"""The bash that a `verify` stands for: curl with everything that it can check, and remarks for the rest."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from runner.errors import StepFailed
from runner.steps.kind import STEPS_HERE, Scene, seconds

if TYPE_CHECKING:
    from runner.steps.verify import Args, Auth, Request

_PATIENCE: Final = 5.0
"""Seconds for one attempt; also of the functions in a planned script."""
_THROUGHOUT_PATIENCE: Final = 2.0
REMARK: Final = "# verify also expects:"
"""How a line begins that says what curl cannot check."""
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


def lines(args: Args, scene: Scene) -> Iterator[str]:
    """Lines for the functions `verify`, `keep_asking` and `stop_asking` of a planned script."""
    yield from (f"{REMARK} {' '.join(text.split())}" for text in _unseen(args))
    asks = str(scene.attempts) if args.request.method in IDEMPOTENT else "unsent"
    asked = ["tcp", *_address(args)] if args.tcp else ["curl", *_options(args, scene)]
    expected = [*_expected(args), *asked]
    yield shlex.join(["verify", f"{max(1, round(scene.patience))}", asks, *expected])
    if args.throughout:
        yield shlex.join(["keep_asking", str(args.max_failures), *expected])
        yield f"sleep {seconds(args.throughout):g}" if isinstance(args.throughout, str) else STEPS_HERE
        yield "stop_asking"


def short(args: Args) -> str:
    """What a log says that it does."""
    return f"curl {args.url}" if args.url else shlex.join(["nc", "-z", *_address(args)])


def _address(args: Args) -> tuple[str, str]:
    host, _, port = args.tcp.rpartition(":")
    return host.strip("[]"), port


def body(request: Request) -> bytes | None:
    """What is sent: JSON, a form or text."""
    if request.json is not msgspec.UNSET:
        return json.dumps(request.json).encode()
    if request.form is not None:
        return urlencode(request.form).encode()
    return None if request.body is None else request.body.encode()


def headers(request: Request) -> dict[str, str]:
    """The header fields to send, with the type of the body where the workflow does not give it."""
    fields = dict(request.headers)
    if body(request) is not None and not any(name.lower() == "content-type" for name in fields):
        fields["Content-Type"] = _content_type(request)
    return fields


def _content_type(request: Request) -> str:
    if request.json is not msgspec.UNSET:
        return "application/json"
    return "text/plain; charset=utf-8" if request.form is None else "application/x-www-form-urlencoded"


def _expected(args: Args) -> tuple[str, str]:
    """A pattern of bash for the status, and a text that the body contains."""
    if args.tcp:
        return "", ""
    statuses = args.status if isinstance(args.status, tuple) else (args.status,)
    pattern = "|".join(str(status).replace("x", "?") for status in statuses)
    texts = _texts(args)
    return pattern if len(statuses) == 1 else f"@({pattern})", texts[0] if texts else ""


def _texts(args: Args) -> tuple[str, ...]:
    return (args.contains,) if isinstance(args.contains, str) else args.contains


def _unseen(args: Args) -> Iterator[str]:
    """What the script does not check."""
    yield from (f"contains {text}" for text in _texts(args)[1:])
    rest = {"matches": args.matches, "equals": args.equals, "that": args.that, "max_elapsed": args.max_elapsed}
    yield from (f"{key} {value}" for key, value in rest.items() if value)
    for name, wanted in args.headers.items():
        value = msgspec.to_builtins(wanted)
        if not isinstance(value, str):
            value = json.dumps({key: item for key, item in value.items() if item not in ("", [], None)})
        yield f"header {name}: {value}"
    if args.json is not msgspec.UNSET:
        yield f"json {json.dumps(args.json)}"
    if args.consecutive > 1:
        yield f"consecutive {args.consecutive}"


def patience(args: Args) -> float:
    """Seconds for one attempt. With `throughout` it is shorter, because a forward whose Pod is away holds connections
    back: who asks patiently sees a long answer where others see an outage.
    """
    return seconds(args.request.timeout) or (_THROUGHOUT_PATIENCE if args.throughout else _PATIENCE)


def _options(args: Args, scene: Scene) -> Iterator[str]:
    request = args.request
    if (limit := patience(args)) != _PATIENCE:
        yield from ("--max-time", f"{limit:g}")
    content = body(request)
    if request.method == "HEAD":
        yield "--head"
    elif request.method != ("GET" if content is None else "POST"):
        yield from ("--request", request.method)
    for name, value in headers(request).items():
        yield from ("--header", f"{name}: {value}")
    if content is not None:
        yield from ("--data-raw", content.decode())
    if request.follow_redirects:
        yield from ("--location", "--max-redirs", "10")
    yield from _auth(request.auth, scene) if request.auth else ()
    yield from _tls(args.tls, args.url, scene)


def _auth(auth: Auth, scene: Scene) -> Iterator[str]:
    """Credentials, by variables of the environment wherever they come from."""
    if auth.basic:
        yield from ("--user", f"{auth.basic.username}:{scene.secret(auth.basic.password, 'password')}")
    if auth.bearer:
        yield from ("--oauth2-bearer", scene.secret(auth.bearer, "token"))


def _tls(tls: Any, url: str, scene: Scene) -> Iterator[str]:
    for option, file in (("--cacert", tls.ca), ("--cert", tls.cert), ("--key", tls.key)):
        if file:
            yield from (option, scene.path(file))
    if tls.insecure:
        yield "--insecure"
    if not tls.server_name:
        yield url
        return
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        raise StepFailed("`tls.server_name` with a URL of which only a run knows the parts", reason="url") from None
    if parts.hostname:
        yield from ("--connect-to", f"{tls.server_name}:{port}:{parts.hostname}:{port}")
        yield from ("--header", f"Host: {parts.netloc}")
        url = parts._replace(netloc=f"{tls.server_name}:{port}").geturl()
    yield url
