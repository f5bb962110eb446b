"""The first process of a cluster: starts the components in its namespaces, and buries what ends there.

When it is killed, the kernel ends every process of its process namespace. usage: supervisor.py STATE BIN ADDRESS SUBNET
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PORT = 6443
SERVICES = "10.96.0.0/16"


class Supervisor:
    def __init__(self, state: Path, binaries: Path, address: str, subnet: str) -> None:
        self.state = state
        self.binaries = binaries
        self.address = address
        self.subnet = subnet
        self.names: dict[int, str] = {}

    def start(self, name: str, *argv: str) -> None:
        log = (self.state / "log" / f"{name}.log").open("wb")
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.names[child.pid] = name

    def run(self) -> None:
        self._write_configurations()
        kubeconfig = f"--kubeconfig={self.state}/kubeconfig"
        self.start("containerd", "containerd", "--config", f"{self.state}/containerd.toml")
        self.start("etcd", *self._etcd())
        self.start("apiserver", *self._apiserver())
        self._await_api()
        self.start(
            "controller-manager",
            f"{self.binaries}/kube-controller-manager",
            kubeconfig,
            f"--service-account-private-key-file={self.state}/pki/sa.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
        )
        self.start("scheduler", f"{self.binaries}/kube-scheduler", kubeconfig, "--leader-elect=false")
        self.start("kubelet", *self._kubelet(kubeconfig))
        self.start(
            "proxy",
            f"{self.binaries}/kube-proxy",
            kubeconfig,
            "--proxy-mode=iptables",
            "--hostname-override=e2e-node",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )
        (self.state / "started").touch()

    def bury(self) -> None:
        """Reap every process that ends; a component that ends is news."""
        while True:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                return
            if name := self.names.pop(pid, None):
                with (self.state / "ended").open("a") as file:
                    file.write(f"{name} {os.waitstatus_to_exitcode(status)}\n")

    def _etcd(self) -> list[str]:
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        return [
            f"{self.binaries}/etcd",
            f"--data-dir={self.state}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        ]

    def _apiserver(self) -> list[str]:
        pki = f"{self.state}/pki"
        return [
            f"{self.binaries}/kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--secure-port={PORT}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={self.address}",
            f"--cert-dir={pki}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.key",
            f"--service-account-signing-key-file={pki}/sa.key",
            f"--service-cluster-ip-range={SERVICES}",
            f"--token-auth-file={pki}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged",
        ]

    def _kubelet(self, kubeconfig: str) -> list[str]:
        return [
            f"{self.binaries}/kubelet",
            kubeconfig,
            f"--config={self.state}/kubelet.json",
            f"--root-dir={self.state}/kubelet",
            f"--node-ip={self.address}",
            "--hostname-override=e2e-node",
            f"--cert-dir={self.state}/kubelet/pki",
        ]

    def _write_configurations(self) -> None:
        state = self.state
        conflist = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "pods",
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.subnet}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": f"{state}/cni-ipam",
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (state / "cni" / "pods.conflist").write_text(json.dumps(conflist))
        (state / "containerd.toml").write_text(CONTAINERD.format(state=state))
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{state.name}",
            "containerRuntimeEndpoint": f"unix://{state}/containerd.sock",
            "failSwapOn": False,
            # Machines without CAP_SYS_RESOURCE may not lower an oom score.
            "oomScoreAdj": 0,
            "address": self.address,
            "evictionHard": {"memory.available": "50Mi"},
            "enforceNodeAllocatable": ["pods"],
            "resolvConf": "/etc/resolv.conf",
        }
        (state / "kubelet.json").write_text(json.dumps(kubelet))

    def _await_api(self) -> None:
        context = ssl._create_unverified_context()
        while True:
            try:
                request = urllib.request.Request(
                    f"https://127.0.0.1:{PORT}/readyz", headers={"Authorization": "Bearer admintoken"}
                )
                with urllib.request.urlopen(request, context=context, timeout=2):
                    return
            except (TimeoutError, OSError, urllib.error.URLError):
                time.sleep(0.05)


CONTAINERD = """\
version = 2
root = "{state}/containerd/root"
state = "{state}/containerd/state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{state}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:e2e"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state}/cni"
"""


def main() -> None:
    state, binaries, address, subnet = sys.argv[1:]
    supervisor = Supervisor(Path(state), Path(binaries), address, subnet)
    supervisor.run()
    supervisor.bury()


if __name__ == "__main__":
    main()
