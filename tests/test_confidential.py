"""What is taken for a secret, and what is not although it stands where secrets stand."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from runner import confidential


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "name",
    [
        "TOKEN",
        "GITHUB_TOKEN",
        "DB_PASSWORD",
        "db-password",
        "PGPASSWORD",
        "MYSQL_PWD",
        "SECRET",
        "apiKey",
        "STRIPE_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "SECRET_KEY_BASE",
        "npm_config__auth",
        "TOKEN_2",
        "registry.credentials",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert confidential.is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["PWD", "OLDPWD", "PATH", "TOKEN_FILE", "SECRET_NAME", "SSH_AUTH_SOCK", "KEYBOARD", "CACHE_KEY", "AUTHOR"]
)
def test_names_of_other_things(name: str) -> None:
    assert not confidential.is_secret_name(name)


@pytest.mark.parametrize("value", ["true", "5432", "admin", "postgres", "Password", "localhost", "", "{", " default\n"])
def test_common_values_are_not_worth_hiding(value: str) -> None:
    """With stars in their place a log could not be read."""
    secret = {"kind": "Secret", "metadata": {"name": "web"}, "stringData": {"key": value}}

    assert not confidential.worth_hiding(value)
    assert list(confidential.of_object(secret)) == []


def test_environment(tmp_path: Path) -> None:
    """By name, and inside of URLs; not the names of files."""
    (tmp_path / "token").touch()
    found = confidential.of_variables(
        {
            "API_TOKEN": "abcdef123456",
            "HOME": "/home/someone",
            "DB_PASSWORD": "postgres",
            "ACCESS_TOKEN": str(tmp_path / "token"),
            "DATABASE_URL": "postgres://app:s3cr3t-pw@db:5432/app",
        }
    )

    assert set(found) == {"abcdef123456", "s3cr3t-pw"}


def test_data_of_a_secret() -> None:
    """`data` is decoded; what repeats the name of the Secret is no secret; certificates are public."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\n-----END PRIVATE KEY-----\n"
    secret = {
        "kind": "Secret",
        "metadata": {"name": "my-database", "namespace": "default"},
        "data": {"password": encoded("hunter-22"), "tls.key": encoded(key), "tls.crt": encoded(key)},
        "stringData": {"database": "my-database", "token": "t0ken-value"},
    }

    assert set(confidential.of_object(secret)) == {"hunter-22", key, "MIIEvQIBADANBgkq", "t0ken-value"}
    assert list(confidential.of_object({"kind": "List", "items": [secret]})) == list(confidential.of_object(secret))
    assert list(confidential.of_object({**secret, "kind": "ConfigMap"})) == []


@pytest.mark.parametrize("broken", [None, "text", ["list"], {"key": None}, {"key": {"a": 1}}])
@pytest.mark.parametrize("key", ["data", "stringData", "metadata", "items"])
def test_malformed_secrets(key: str, broken: Any) -> None:
    """They are refused elsewhere."""
    for kind in ("Secret", "SecretList"):
        list(confidential.of_object({"kind": kind, key: broken}))


def test_secrets_inside_of_values() -> None:
    """Of JSON every text (and a registry's password), of settings what stands behind a secret's name."""
    config = {"auths": {"registry.example": {"username": "someone", "auth": encoded("someone:pa55word")}}}
    settings = "host: db.example.com\ndb.password: hunter-23\nurl=amqp://u:queue-pw@mq\n"
    found = list(
        confidential.of_object(
            {"kind": "Secret", "stringData": {".dockerconfigjson": json.dumps(config), "settings": settings}}
        )
    )

    assert {"someone", "pa55word", encoded("someone:pa55word"), "hunter-23", "queue-pw"} <= set(found)


def test_declared_values() -> None:
    """They are taken at their word, with their lines; the head of a key is no secret."""
    found = set(confidential.declared({"a": ["true", 5432, True, None], "b": "-----BEGIN KEY-----\nxyz1"}))

    assert found == {"true", "5432", "-----BEGIN KEY-----\nxyz1", "xyz1"}


def test_kubeconfig(tmp_path: Path) -> None:
    """Tokens, passwords, keys, files with tokens, and what plugins and proxies are given."""
    (tmp_path / "token").write_text("from-a-file\n")
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "https://x", "proxy-url": "http://me:proxy-pw@proxy:3128"}}],
        "users": [
            {
                "name": "u",
                "user": {
                    "token": "bearer-token",
                    "password": "1234",
                    "client-key-data": encoded("-----BEGIN KEY-----\nkey-material\n"),
                    "tokenFile": str(tmp_path / "token"),
                    "auth-provider": {"name": "oidc", "config": {"refresh-token": "refresh-me", "idp": "https://idp"}},
                    "exec": {"command": "login", "env": [{"name": "LOGIN_TOKEN", "value": "exec-token"}]},
                },
            },
            {"name": "empty", "user": None},
        ],
    }
    found = set(confidential.of_kubeconfig(config))

    assert {"bearer-token", "1234", "key-material", "from-a-file", "refresh-me", "exec-token", "proxy-pw"} <= found
    assert not {"https://idp", "login"} & found
