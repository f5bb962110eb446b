# ruff: noqa: E501 - the builders' words, as long as they come
"""Why builds fail: the words of the builders, and the sentence of each."""

from __future__ import annotations

import pytest

from runner.cluster.build_errors import explained
from runner.errors import CommandResult

SHORT_NAME = (
    'Error: creating build container: short-name "nosuch/image:1" did not resolve to an alias and no '
    'unqualified-search registries are defined in "/etc/containers/registries.conf"'
)
DENIED = (
    "ERROR: failed to solve: nosuch/image:1: failed to resolve source metadata for docker.io/nosuch/image:1: pull access "
    "denied, repository does not exist or may require authorization"
)
OFFLINE = (
    "Error: creating build container: initializing source docker://docker.io/library/python:3: pinging container registry "
    'registry: Get "https://registry/v2/": dial tcp: lookup registry: no such host'
)
RUN = 'Error: building at STEP "RUN make all": while running runtime: exit status 2'
DOCKER_RUN = 'ERROR: failed to solve: process "/bin/sh -c make all" did not complete successfully: exit code: 2'
COPY = (
    'Error: building at STEP "COPY app.py /": checking on sources: copier: stat: "/app.py": no such file or directory'
)
DOCKER_COPY = (
    'ERROR: failed to solve: failed to compute cache key: failed to calculate checksum of ref: "/app.py": not found'
)
UNKNOWN = 'Error: 1 error occurred:\n\tUnknown instruction: "FRMO"'


@pytest.mark.parametrize(
    ("words", "sentence", "hint"),
    [
        (SHORT_NAME, "the base image nosuch/image:1 cannot be found: its name says no registry", "docker.io/library/"),
        (DENIED, "the base image docker.io/nosuch/image:1 cannot be pulled", "podman pull docker.io/nosuch/image:1"),
        (
            OFFLINE,
            "the base image docker.io/library/python:3 cannot be pulled: its registry does not answer",
            "podman pull docker.io/library/python:3",
        ),
        (RUN, "`RUN make all` of the Dockerfile ended with exit code 2", ""),
        (DOCKER_RUN, "`RUN make all` of the Dockerfile ended with exit code 2", ""),
        (COPY, "`COPY app.py /` of the Dockerfile does not find its files", "`context`"),
        (DOCKER_COPY, "the Dockerfile copies /app.py, which is not in the build's context", ".dockerignore"),
        (UNKNOWN, 'the Dockerfile has a line that is no instruction: "FRMO"', ""),
        ("write /x: no space left on device", "there is no space left on the disk", "podman system prune"),
        ("\nError: a new one\n\n", "podman build ended with exit code 1: Error: a new one", ""),
    ],
)
def test_sentences(words: str, sentence: str, hint: str) -> None:
    """What happened, and what to do; the builder's own words stay with it."""
    result = CommandResult(("podman", "build"), 1, "STEP 1/2: FROM x\n", words, 0.1)
    failure = explained(result)

    assert failure.message == sentence
    assert hint in failure.hint
    assert (failure.result, failure.reason) == (result, "build")


def test_ended_by_a_signal() -> None:
    """A builder that was killed says nothing."""
    assert (
        explained(CommandResult(("docker", "build"), -9, "", "", 0.1)).message == "docker build was ended by signal 9"
    )
