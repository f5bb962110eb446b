"""The one `kubectl proxy`: started once, started again when it dies, gone at the end."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner import shell
from runner.cluster.http import Unreachable
from runner.cluster.proxy import Proxy
from runner.deadline import Deadline
from runner.errors import Cancelled, CannotStart, TimedOut

if TYPE_CHECKING:
    from tests.conftest import FakeBin

SERVE = f"""exec {sys.executable} -I -c "
import signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[2].removeprefix('--unix-socket='))
print('Starting to serve on', server.getsockname(), flush=True)
signal.pause()" "$@"
"""


@pytest.fixture(autouse=True)
def _own_temporary_folder(fake_bin: FakeBin, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Socket paths are short: a folder of the test's own, directly below /tmp, after pytest has made its own."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


def test_listens_in_a_private_folder(fake_bin: FakeBin) -> None:
    """Nobody else reaches the socket: it has the cluster's rights."""
    fake_bin.put("kubectl", SERVE)
    with closing(Proxy({})) as proxy:
        path = Path(proxy.path(Deadline(10)))
        assert path.is_socket()
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.parent.stat().st_uid == os.getuid()
        assert proxy.path(Deadline(10)) == str(path)
    assert len(fake_bin.calls) == 1
    assert not path.parent.exists()
    assert shell.alive() == ()


def test_dead_proxy_is_replaced(fake_bin: FakeBin) -> None:
    """The next request finds another one, at another path."""
    fake_bin.put("kubectl", SERVE)
    with closing(Proxy({})) as proxy:
        first = proxy.path(Deadline(10))
        for child in shell.alive():
            child.stop()
        assert proxy.path(Deadline(10)) != first
    assert len(fake_bin.calls) == 2


def test_proxy_that_does_not_start(fake_bin: FakeBin) -> None:
    """Kubectl's own words are the reason."""
    fake_bin.put("kubectl", "echo 'error: no such context' >&2; exit 1")
    with closing(Proxy({})) as proxy, pytest.raises(CannotStart) as caught:
        proxy.path(Deadline(10))
    assert caught.value.message == "kubectl proxy does not start: error: no such context"


def test_later_proxy_that_does_not_start_may_do_so_soon(fake_bin: FakeBin) -> None:
    """It is tried again after growing pauses: four requests do not start four in a row."""
    fake_bin.put("kubectl", SERVE)
    with closing(Proxy({})) as proxy:
        proxy.path(Deadline(10))
        fake_bin.put("kubectl", "echo 'error: too many open files' >&2; exit 1")
        for child in shell.alive():
            child.stop()
        started = time.monotonic()
        for _ in range(4):
            with pytest.raises(Unreachable, match="too many open files"):
                proxy.path(Deadline(10))
        assert time.monotonic() - started > 0.2
        fake_bin.put("kubectl", SERVE)
        assert Path(proxy.path(Deadline(10))).is_socket()


def test_waiting_for_a_proxy_ends_with_the_deadline(fake_bin: FakeBin) -> None:
    fake_bin.put("kubectl", "exec sleep 60")
    with closing(Proxy({})) as proxy:
        with pytest.raises(TimedOut):
            proxy.path(Deadline(0.1))
        deadline = Deadline(60)
        threading.Timer(0.1, deadline.cancel, ("SIGINT",)).start()
        with pytest.raises(Cancelled):
            proxy.path(deadline)


def test_missing_kubectl_leaves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made for the proxy goes when there is none."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CannotStart, match="kubectl is not installed"):
        Proxy({})
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_closed_proxy_is_not_started_again(fake_bin: FakeBin) -> None:
    """After the end nothing begins anew; closing twice is harmless."""
    fake_bin.put("kubectl", SERVE)
    proxy = Proxy({})
    proxy.close()
    proxy.close()
    with pytest.raises(CannotStart):
        proxy.path(Deadline(10))
    assert shell.alive() == ()
