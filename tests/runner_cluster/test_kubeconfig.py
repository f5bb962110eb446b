"""Reading, merging and pinning kubeconfigs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from runner.cluster import kubeconfig
from runner.cluster.kubeconfig import pin, select, sources
from runner.errors import CannotStart

needs_kubectl = pytest.mark.e2e  # compares with the real one


def config(*names: str, current: str = "", **cluster: Any) -> dict[str, Any]:
    """A kubeconfig with a cluster, a user and a context for each name; the server's port tells them apart."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": f"https://127.0.0.1:{6443 + index}", **cluster}}
            for index, name in enumerate(names)
        ],
        "users": [{"name": f"{name}-user", "user": {"token": f"token of {name}"}} for name in names],
        "contexts": [{"name": name, "context": {"cluster": name, "user": f"{name}-user"}} for name in names],
        "current-context": current,
    }


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kubeconfig of this machine, and no Pod around us."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def use(monkeypatch: pytest.MonkeyPatch, *files: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))


def test_current_context_is_selected(tmp_path: Path) -> None:
    """Without a wish it is the current context of ~/.kube/config, in the namespace `default`."""
    write(tmp_path / "home/.kube/config", config("a", "b", current="b"))
    selected = select()
    assert selected
    assert (selected.context, selected.cluster, selected.user) == ("b", "b", "b-user")
    assert (selected.server, selected.namespace, selected.in_pod) == ("https://127.0.0.1:6444", "default", False)


def test_asked_context_and_its_namespace(tmp_path: Path) -> None:
    """`--context` and `--kubeconfig` win, and the context's own namespace holds."""
    data = config("a", "b", current="a")
    data["contexts"][1]["context"]["namespace"] = "web"
    selected = select(str(write(tmp_path / "file", data)), "b")
    assert selected
    assert (selected.context, selected.namespace) == ("b", "web")


def test_nothing_at_all() -> None:
    """Without a file there is no context, which is no error."""
    assert select() is None


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "{}", "contexts: {}\n", "apiVersion: v1\nkind: Config\ncontexts: null\n", "---\n"]
)
def test_empty_files(tmp_path: Path, text: str) -> None:
    """A file without contexts is as good as none: `kind delete cluster` leaves such files."""
    assert select(str(write(tmp_path / "file", text))) is None


def test_dev_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """KUBECONFIG=/dev/null is the usual way to say that there is no cluster."""
    use(monkeypatch, Path("/dev/null"))
    assert select() is None


def test_pipe(tmp_path: Path) -> None:
    """A kubeconfig may come through a pipe, as in `--kubeconfig <(kind get kubeconfig)`: it is read once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write, args=(pipe, config("a", current="a")))
    writer.start()
    selected = select(str(pipe))
    writer.join()
    assert selected
    assert selected.context == "a"


def test_first_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of entries with one name the first file's is used whole; the first current-context counts; others are added."""
    first = write(tmp_path / "1", config("a"))
    second_data = config("other", "a", "b", current="a", **{"proxy-url": "http://proxy"})
    second = write(tmp_path / "2", second_data)
    third = write(tmp_path / "3", config("c", current="c"))
    use(monkeypatch, tmp_path / "absent", first, second, third)
    selected = select()
    assert selected
    assert (selected.context, selected.server) == ("a", "https://127.0.0.1:6443")
    assert "proxy-url" not in selected.config["clusters"][0]["cluster"]
    other = select(context="b")
    assert other
    assert other.server == "https://127.0.0.1:6445"


def test_sources_are_deduplicated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of files has no empty and no double entries; an empty $KUBECONFIG means the default file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", f"one:{os.pathsep}two{os.pathsep}one")
    assert sources() == (tmp_path / "one", tmp_path / "two")
    monkeypatch.setenv("KUBECONFIG", "")
    assert sources() == (tmp_path / "home/.kube/config",)


@needs_kubectl
def test_merges_like_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For files that overlap the selection is what `kubectl config view --minify --raw` answers."""
    first = config("a", **{"certificate-authority": "/pki/ca.crt", "tls-server-name": "x"})
    second = config("z", "a", "b", current="a")
    second["users"].append({"name": "a-user", "user": {"client-key": "/key", "client-certificate": "/crt"}})
    del second["users"][1]
    use(monkeypatch, write(tmp_path / "1/config", first), write(tmp_path / "2/config", second))
    for context in ("a", "b", "z"):
        selected = select(context=context)
        assert selected
        argv = ["kubectl", "config", "view", "--minify", "--raw", "--output=json", f"--context={context}"]
        theirs = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
        for key in ("clusters", "users", "contexts", "current-context"):
            assert theirs[key] == selected.config[key]


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path is absolute after selection, against the file that it stands in, wherever we are."""
    data = config("a", current="a", **{"certificate-authority": "pki/ca.crt"})
    data["users"][0]["user"] = {
        "client-certificate": "../c.crt",
        "client-key": "/etc/key",
        "tokenFile": "tok",
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./login",
            "args": ["./x"],
            "env": [{"name": "A", "value": "1"}],
        },
    }
    write(tmp_path / "k/config", data)
    monkeypatch.chdir(tmp_path)
    selected = select("k/config")
    assert selected
    assert selected.config["clusters"][0]["cluster"]["certificate-authority"] == f"{tmp_path}/k/pki/ca.crt"
    user = selected.config["users"][0]["user"]
    assert user["client-certificate"] == f"{tmp_path}/c.crt"
    assert user["client-key"] == "/etc/key"
    assert user["tokenFile"] == f"{tmp_path}/k/tok"
    assert user["exec"]["command"] == f"{tmp_path}/k/login"
    assert (user["exec"]["args"], user["exec"]["env"]) == (["./x"], [{"name": "A", "value": "1"}])


def test_plugin_on_path_stays(tmp_path: Path) -> None:
    """An exec plugin without a slash is looked up on PATH: its name is left alone."""
    data = config("a", current="a")
    data["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws"}}
    selected = select(str(write(tmp_path / "file", data)))
    assert selected
    assert selected.config["users"][0]["user"]["exec"]["command"] == "aws"


def test_pin_is_private_and_small(tmp_path: Path) -> None:
    """The copy has mode 0600, one context with its cluster and user, and keeps what it does not understand."""
    extension = [{"name": "x", "extension": {"last-update": "Mon, 23 Nov 2026 08:00:00 UTC", "version": "v1"}}]
    data = config("a", "b", current="b", extensions=extension, **{"proxy-url": "http://p", "tls-server-name": "s"})
    data["extensions"] = extension
    selected = select(str(write(tmp_path / "file", data)), "a")
    assert selected
    old = write(tmp_path / "kubeconfig", "old")
    path = pin(selected, tmp_path)
    assert path == old
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    copy = json.loads(path.read_text())
    assert copy["current-context"] == "a"
    assert [user["name"] for user in copy["users"]] == ["a-user"]
    assert [context["name"] for context in copy["contexts"]] == ["a"]
    assert copy["clusters"] == [data["clusters"][0]]
    assert copy["extensions"] == extension


def test_pin_does_not_follow_links(tmp_path: Path) -> None:
    """A link in the place of the copy is replaced, and what it points to stays as it is."""
    victim = write(tmp_path / "victim", "mine")
    (tmp_path / "kubeconfig").symlink_to(victim)
    selected = select(str(write(tmp_path / "file", config("a", current="a"))))
    assert selected
    pin(selected, tmp_path)
    assert victim.read_text() == "mine"
    assert not (tmp_path / "kubeconfig").is_symlink()


@needs_kubectl
def test_plugins_work_from_the_copy(tmp_path: Path) -> None:
    """A plugin with a relative path works: kubectl starts it, with its environment, from a copy elsewhere."""
    plugin = write(tmp_path / "k/login", f'#!/bin/sh\necho "$MARK" >{tmp_path}/called\nexit 1\n')
    plugin.chmod(0o755)
    data = config("a", current="a")
    data["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./login",
            "interactiveMode": "Never",
            "env": [{"name": "MARK", "value": "here"}],
        }
    }
    selected = select(str(write(tmp_path / "k/config", data)))
    assert selected
    (tmp_path / "run").mkdir()
    path = pin(selected, tmp_path / "run")
    argv = ["kubectl", f"--kubeconfig={path}", "get", "--raw", "/readyz", "--request-timeout=2s"]
    subprocess.run(argv, check=False, cwd="/", capture_output=True)
    assert (tmp_path / "called").read_text() == "here\n"


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """Printing a selection shows no credentials."""
    selected = select(str(write(tmp_path / "file", config("a", current="a"))))
    assert "token of a" not in repr(selected)


def fails(*arguments: str | None) -> CannotStart:
    with pytest.raises(CannotStart) as caught:
        select(*arguments)
    return caught.value


def test_unknown_context(tmp_path: Path) -> None:
    """An unknown context is refused with the names that exist, the nearest one first."""
    path = str(write(tmp_path / "file", config("kind-web", "prod", current="prod")))
    error = fails(path, "kind-wep")
    assert error.message == f"there is no context kind-wep in {path}"
    assert error.hint == "did you mean kind-web? there are kind-web, prod"


def test_asked_context_without_any_file() -> None:
    """Asking for a context where there is none is an error, not a silent choice of podman."""
    assert fails(None, "prod").message == "there is no context prod in any kubeconfig"


def test_current_context_that_does_not_exist(tmp_path: Path) -> None:
    """A current-context that points nowhere is refused, as kubectl refuses it."""
    path = str(write(tmp_path / "file", config("a", current="gone")))
    assert fails(path).message == f"the current context, gone, does not exist in {path}"


def test_no_context_is_chosen(tmp_path: Path) -> None:
    """Contexts without a current one are a question to the user, who is told both ways out."""
    error = fails(str(write(tmp_path / "file", config("a", "b"))))
    assert error.message.startswith("no context is chosen")
    assert "--context NAME; there are a, b" in error.hint
    assert "--engine podman" in error.hint


@pytest.mark.parametrize(
    ("list_", "message"),
    [
        ("clusters", "names the cluster 'a', which does not exist"),
        ("users", "names the user 'a-user', which does not exist"),
    ],
)
def test_dangling_names(tmp_path: Path, list_: str, message: str) -> None:
    """A context whose cluster or user is missing is refused."""
    assert message in fails(str(write(tmp_path / "file", {**config("a", current="a"), list_: []}))).message


def test_context_without_user(tmp_path: Path) -> None:
    """A context may have no user: clusters without authentication exist."""
    data = config("a", current="a")
    del data["contexts"][0]["context"]["user"]
    selected = select(str(write(tmp_path / "file", data)))
    assert selected
    assert selected.config["users"] == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("clusters: []\na: [1\n", "a list in brackets is not closed"),
        ("a: 1\na: 2\n", "file:2:1: the key `a` stands twice"),
        ("- 1\n", "file:1:1: this is not a kubeconfig"),
        ("{}\n---\n{}\n", "file:3:1: a kubeconfig is one document"),
        ("contexts:\n  a: 1\n", "file:2:3: contexts must be a list"),
        ("contexts:\n- name: 1\n", "file:2:3: contexts[0] must be a map with a name"),
        ("users:\n- name: a\n  user: b\n", "file:3:9: users[0].user must be a map"),
        ("users:\n- name: a\n- name: a\n", "file:3:9: users has two entries with the name a"),
        ({**config("a", current="a"), "clusters": [{"name": "a", "cluster": {}}]}, "the cluster a of"),
    ],
)
def test_broken_files(tmp_path: Path, data: Any, message: str) -> None:
    """A file that makes no sense is refused with the place and what is wrong."""
    path = str(write(tmp_path / "file", data))
    assert message in fails(path).message


def test_named_file_must_exist(tmp_path: Path) -> None:
    """`--kubeconfig` with a name that does not exist is an error; in $KUBECONFIG it is passed over."""
    assert fails(str(tmp_path / "absent")).message == f"{tmp_path}/absent does not exist"


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    """A folder is refused with its path, without a traceback."""
    assert str(tmp_path) in fails(str(tmp_path)).message


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """We are in a Pod with a service account."""
    folder = tmp_path / "serviceaccount"
    write(folder / "token", "secret")
    write(folder / "ca.crt", "certificate")
    write(folder / "namespace", "ci\n")
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", folder)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return folder


def test_service_account(pod: Path) -> None:
    """In a Pod without a kubeconfig the cluster is the Pod's own, its token read from the file that is renewed."""
    selected = select()
    assert selected
    assert (selected.server, selected.namespace, selected.in_pod) == ("https://[fd00::1]:443", "ci", True)
    assert selected.config["users"][0]["user"] == {"tokenFile": str(pod / "token")}
    assert selected.config["clusters"][0]["cluster"]["certificate-authority"] == str(pod / "ca.crt")


def test_pinned_service_account(pod: Path, tmp_path: Path) -> None:
    """What a run pinned in a Pod is known again there, and nowhere else."""
    selected = select()
    assert selected
    kubeconfig.pin(selected, tmp_path)
    assert kubeconfig.pinned(tmp_path).in_pod
    (pod / "token").unlink()
    assert not kubeconfig.pinned(tmp_path).in_pod


def test_kubeconfig_in_a_pod(pod: Path, tmp_path: Path) -> None:
    """A kubeconfig wins over the service account."""
    selected = select(str(write(tmp_path / "file", config("a", current="a"))))
    assert selected
    assert not selected.in_pod


def test_pod_without_token(pod: Path) -> None:
    """A Pod without a token (automountServiceAccountToken: false) has no cluster."""
    (pod / "token").unlink()
    assert select() is None
