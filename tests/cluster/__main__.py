"""`python3 -m tests.cluster up | down | env | load | status | build | install`."""

from __future__ import annotations

import argparse
import sys

from tests.cluster import build, machine, node


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.cluster", description=sys.modules["tests.cluster"].__doc__)
    parser.add_argument("--name", default="e2e", help="which cluster (default: e2e)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="install and build what is missing, start, wait until ready")
    commands.add_parser("down", help="end it, and everything that belongs to it")
    commands.add_parser("env", help="print the exports with which kubectl, ctr and runner reach it")
    commands.add_parser("status", help="what of it is there")
    commands.add_parser("build", help="build the binaries only")
    commands.add_parser("install", help="install the Debian packages only")
    load = commands.add_parser("load", help="make a podman image known to the node")
    load.add_argument("image")
    load.add_argument("--as", dest="name_in_cluster", default="", help="the name in the cluster")
    options = parser.parse_args()
    try:
        _run(options)
    except machine.Problem as problem:
        sys.stderr.write(f"cluster: {problem}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    cluster = node.Cluster(options.name)
    match options.command:
        case "up":
            machine.install()
            cluster.up(build.binaries())
        case "down":
            cluster.down()
        case "env":
            sys.stdout.write(cluster.exports())
        case "status":
            sys.stdout.write("".join(f"{line}\n" for line in cluster.traces()) or "nothing\n")
        case "build":
            sys.stdout.write(f"{build.binaries()}\n")
        case "install":
            machine.install()
        case "load":
            cluster.load(options.image, options.name_in_cluster)


if __name__ == "__main__":
    sys.exit(main())
