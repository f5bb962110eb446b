"""What is secret: declared inputs, variables by their names, the data of Secrets, credentials in a kubeconfig and in a
workflow file.

Of a value with several lines each line is a secret too: a private key is printed line by line.

Values that people declare secret are taken at their word. What is found otherwise is judged first: an applied Secret
also holds `true`, `5432` and `postgres`, and a log with stars in the place of such words cannot be read any more.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

# How names of variables end whose values are secret: GITHUB_TOKEN, db-password, apiKey, SECRET_KEY_BASE.
_NAME: Final = re.compile(
    r"""(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|_PWD|SECRET|CREDENTIALS?|JWT|AUTHORIZATION|_AUTH|AUTH_CONFIG
    |(?:API|ACCESS|PRIVATE|SECRET|SIGNING|ENCRYPTION|MASTER|ACCOUNT|STORAGE)_?KEY(?:_BASE)?)S?(?:_?[0-9]+)?$""",
    re.VERBOSE,
)
_USER_INFO: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@", re.IGNORECASE)
_USER_ALONE: Final = re.compile(r"\bhttps?://([^\s/:@]+)@", re.IGNORECASE)
_SETTING: Final = re.compile(r"^\s*(?:export\s+)?[\"']?([\w.-]+)[\"']?\s*[:=]\s*[\"']?(.*?)[\"']?,?\s*$", re.MULTILINE)

_ARMOUR: Final = re.compile(r"\s*-----(BEGIN|END) [A-Z0-9 ]+-----\s*")

SHORTEST_FOUND: Final = 6
_SHORTEST_NUMBER: Final = 8
_SHORTEST_WORD: Final = 8
# fmt: off
_COMMON: Final = frozenset({
    "administrator", "anonymous", "changeme", "cluster-admin", "config", "database", "default", "defaultdb",
    "development", "disabled", "elastic", "enabled", "example", "example.com", "guest", "localhost", "mariadb",
    "memcached", "mongodb", "nobody", "opaque", "password", "postgres", "postgresql", "prefer", "private",
    "production", "public", "rabbitmq", "require", "secret", "service", "staging", "string", "system", "testing",
    "undefined", "unknown", "username", "verify-ca", "verify-full",
})
# fmt: on


def declared(value: Any) -> Iterator[str]:
    """The texts and numbers in a value that somebody declared secret, and their single lines."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from declared(item)
    elif value is not None and not isinstance(value, bool):
        text = str(value)
        yield text
        yield from (line.strip() for line in text.splitlines() if not _ARMOUR.fullmatch(line))


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret, as `GITHUB_TOKEN` and `db-password` do."""
    return bool(_NAME.search(re.sub(r"[-.]", "_", name).upper()))


def worth_hiding(value: str) -> bool:
    """Whether a value that nobody declared is one that only a secret has: not short, no common word, no number."""
    text = value.strip()
    if len(text) < SHORTEST_FOUND or text.lower() in _COMMON or _ARMOUR.fullmatch(text):
        return False
    return not text.isdigit() or len(text) >= _SHORTEST_NUMBER


def of_variables(variables: Mapping[str, Any]) -> Iterator[str]:
    """The secrets among variables of an environment: by their names, and passwords inside of URLs."""
    for name, value in variables.items():
        text = str(value)
        if is_secret_name(name) and worth_hiding(text) and not _is_path(text):
            yield from _parts(text)
        yield from filter(worth_hiding, _USER_INFO.findall(text))


def computed(value: Any, literals: str, read: Mapping[str, Any]) -> Iterator[str]:
    """The texts in what an expression made of values of which some are secret, and their longer words.

    Not those that stand in its literals, and not a whole text or line of what it read: those were judged when
    they came.
    """
    seen = {line for item in read.values() for text in _texts(item) for line in (text, *text.splitlines())}
    for text in _texts(value):
        if text not in seen and _is_computed(text, literals):
            yield text
            yield from (word for word in text.split() if len(word) >= _SHORTEST_WORD and _is_computed(word, literals))


def _is_computed(text: str, literals: str) -> bool:
    if text.lower() in _COMMON or text in ("true", "false", "null") or text in literals:
        return False
    return not text.isdigit() or len(text) >= _SHORTEST_NUMBER


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def of_workflow(data: Any) -> Iterator[str]:
    """What stands in a workflow file although it should not: before a problem is shown that quotes a line of it.

    Defaults of secret inputs, variables of an `env`, data of Secrets, credentials for `verify`, those in URLs. A text
    with an expression in it is none.
    """
    if isinstance(data, Mapping):
        if data.get("secret") is True:
            yield from declared(data.get("default"))
        yield from filter(_is_literal, of_object(data))
        yield from of_variables(_variables_in(data.get("env")))
        auth = data.get("auth")
        if isinstance(auth, Mapping):
            basic = auth.get("basic")
            found = (auth.get("bearer"), basic.get("password") if isinstance(basic, Mapping) else None)
            yield from (text for text in found if isinstance(text, str) and _is_literal(text) and worth_hiding(text))
        for key, value in data.items():
            yield from of_workflow(key)
            yield from of_workflow(value)
    elif isinstance(data, list):
        for item in data:
            yield from of_workflow(item)
    elif isinstance(data, str) and "://" in data:
        found_in_url = (*_USER_INFO.findall(data), *_USER_ALONE.findall(data))
        yield from (text for text in found_in_url if _is_literal(text) and worth_hiding(text))


def _variables_in(env: Any) -> dict[str, Any]:
    """Those with a value that is written out, of a step's `env` or of a container's."""
    if isinstance(env, list):
        env = {str(item["name"]): item.get("value", "") for item in env if isinstance(item, Mapping) and "name" in item}
    pairs = env.items() if isinstance(env, Mapping) else ()
    return {str(name): value for name, value in pairs if isinstance(value, str | int) and _is_literal(str(value))}


def _is_literal(text: str) -> bool:
    return "${{" not in text


def _is_path(text: str) -> bool:
    """`TOKEN=/run/secrets/token` names a file and is no secret itself."""
    return text.startswith(("/", "~/", "./")) and Path(text).expanduser().exists()


def of_object(object_: Mapping[str, Any]) -> Iterator[str]:
    """The values of a Kubernetes object of kind Secret (or of a list of them); of other kinds nothing."""
    kind = object_.get("kind")
    if kind in ("List", "SecretList"):
        for item in object_.get("items") or ():
            if isinstance(item, Mapping):
                yield from of_object({"kind": "Secret", **item} if kind == "SecretList" else item)
    if kind != "Secret":
        return
    metadata = object_.get("metadata")
    own = set(map(str, metadata.values())) if isinstance(metadata, Mapping) else set()
    for text in _data(object_):
        yield from (part for part in _parts(text) if part not in own)


def _data(secret: Mapping[str, Any]) -> Iterator[str]:
    for key in ("data", "stringData"):
        values = secret.get(key)
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if name in ("ca.crt", "tls.crt"):  # certificates are public
                continue
            yield _decoded(str(value)) if key == "data" else str(value)


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value, validate=False).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return value


def _parts(text: str) -> Iterator[str]:
    """A value and the secrets in it: its lines, of JSON the texts, of settings the values with a secret's name."""
    if not worth_hiding(text):
        return
    yield text
    if text.lstrip()[:1] in ("{", "["):
        try:
            yield from _leaves(json.loads(text))
        except (ValueError, RecursionError):
            pass
        else:
            return
    yield from (line.strip() for line in text.splitlines() if worth_hiding(line))
    for name, value in _SETTING.findall(text):
        if is_secret_name(name) and worth_hiding(value):
            yield value
    yield from filter(worth_hiding, _USER_INFO.findall(text))


def _leaves(data: Any, name: str = "") -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, item in data.items():
            yield from _leaves(item, str(key))
    elif isinstance(data, list):
        for item in data:
            yield from _leaves(item, name)
    elif isinstance(data, str) and worth_hiding(data):
        yield data
        if name == "auth":  # of a registry: the user's name and password
            yield from filter(worth_hiding, _decoded(data).partition(":")[2:])


def of_kubeconfig(config: Mapping[str, Any]) -> Iterator[str]:
    """The credentials in a kubeconfig: tokens, passwords, keys, and what plugins are given."""
    for entry in config.get("users") or ():
        user = entry.get("user") or {}
        yield from (str(user[key]) for key in ("token", "password") if user.get(key))
        if user.get("client-key-data"):
            yield from declared(_decoded(str(user["client-key-data"])))
        if user.get("tokenFile"):
            yield from declared(_content(Path(str(user["tokenFile"]))))
        provider = user.get("auth-provider")
        if isinstance(provider, Mapping) and isinstance(provider.get("config"), Mapping):
            yield from of_variables(provider["config"])
        plugin = user.get("exec")
        if isinstance(plugin, Mapping):
            yield from of_variables({item["name"]: item.get("value", "") for item in _variables(plugin)})
    for entry in config.get("clusters") or ():
        yield from _USER_INFO.findall(" ".join(map(str, (entry.get("cluster") or {}).values())))


def _variables(plugin: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (item for item in plugin.get("env") or () if isinstance(item, Mapping) and "name" in item)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
