"""A real Kubernetes on one Linux machine without Docker, for tests: built from the Go module proxy, up in seconds.

`python3 -m tests.cluster up` needs root (or sudo for the packages), nothing else: no pip packages. A cluster lives in
network, process and mount namespaces of its own, so two can stand side by side, and ending its first process ends all.
"""
