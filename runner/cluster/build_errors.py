"""Why a build failed: from the words of docker, podman, buildah and nerdctl to one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from runner.errors import CommandResult, StepFailed

# (pattern over all that was printed, sentence, hint), the special before the general.
_RULES: Final[Sequence[tuple[re.Pattern[str], str, str]]] = tuple(
    (re.compile(pattern), sentence, hint)
    for pattern, sentence, hint in (
        (
            r"no space left on device",
            "there is no space left on the disk",
            "remove what is not needed: {program} system prune",
        ),
        (
            r"Cannot connect to the Docker daemon|Cannot connect to Podman",
            "the engine of {program} does not answer",
            "start it, or choose another builder: `builder: …`",
        ),
        (
            r'short-name "(?P<what>[^"]+)" did not resolve',
            "the base image {what} cannot be found: its name says no registry",
            "write it in full in the Dockerfile: docker.io/library/{what}",
        ),
        (
            (
                r"(?:initializing source docker://|failed to resolve source metadata for |pull access denied for )"
                r"(?P<what>[^\s,]+?)[:,]? .*?(?:no such host|i/o timeout|connection refused|TLS handshake|deadline)"
            ),
            "the base image {what} cannot be pulled: its registry does not answer",
            "try again, or pull it where there is a network: {program} pull {what}",
        ),
        (
            (
                r"(?:initializing source docker://|failed to resolve source metadata for |pull access denied for )"
                r"(?P<what>[^\s,]+?)[:,]?(?:\s|$)"
            ),
            "the base image {what} cannot be pulled",
            "is its name right, and are you logged in? {program} pull {what}",
        ),
        (
            r'building at STEP "(?P<what>(?:COPY|ADD) [^"]*)":.*(?:no such file|no items matching)',
            "`{what}` of the Dockerfile does not find its files",
            "paths are relative to the build's `context`; does a .dockerignore leave them out?",
        ),
        (
            r'"(?P<what>/[^"]*)": not found|COPY failed: .*?stat (?P<old>\S+): file does not exist',
            "the Dockerfile copies {what}{old}, which is not in the build's context",
            "paths are relative to the build's `context`; does a .dockerignore leave it out?",
        ),
        (
            r'building at STEP "(?P<what>RUN .*)": while running runtime: exit status (?P<code>\d+)',
            "`{what}` of the Dockerfile ended with exit code {code}",
            "",
        ),
        (
            r'process "(?:/bin/sh -c )?(?P<what>.*?)" did not complete successfully: exit code: (?P<code>\d+)',
            "`RUN {what}` of the Dockerfile ended with exit code {code}",
            "",
        ),
        (
            r"(?:[Uu]nknown instruction:? |dockerfile parse error .*?: )(?P<what>[^\n]+)",
            "the Dockerfile has a line that is no instruction: {what}",
            "",
        ),
        (
            (
                r"target stage (?P<what>\S+) could not be found|no stage or image found with that name|"
                r'target "(?P<old>[^"]+)" not found'
            ),
            "the Dockerfile has no stage {what}{old}",
            "mind `target`",
        ),
    )
)


def explained(result: CommandResult) -> StepFailed:
    """The failure of a build: a sentence where its words are known, with all that it printed behind it."""
    program = result.argv[0]
    for pattern, sentence, hint in _RULES:
        if match := pattern.search(result.stdout + result.stderr):
            groups = {name: value or "" for name, value in match.groupdict().items()} | {"program": program}
            return StepFailed(sentence.format(**groups), hint=hint.format(**groups), reason="build", result=result)
    last = next((line.strip() for line in reversed(result.stderr.splitlines()) if line.strip()), "")
    ended = f"was ended by signal {-result.code}" if result.code < 0 else f"ended with exit code {result.code}"
    return StepFailed(f"{program} build {ended}" + (f": {last}" if last else ""), reason="build", result=result)
