"""The step `delete`: it is over when the dependents are gone, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runner.cluster.protocol import Ref
from runner.deadline import Deadline
from runner.errors import CommandResult, TimedOut
from runner.shell import Command
from tests.runner_cluster.conftest import FakeHand

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from tests.runner_cluster.fake_api import FakeApi


def test_a_pod_that_its_controller_made_meanwhile_is_waited_for(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    """The family was listed before the Job made its Pod, and the Job itself is gone at once."""
    api.put("jobs", "work", namespace="default")

    class Hand(FakeHand):
        def execute(self, command: Command, *, check: bool = True) -> CommandResult:
            api.put("pods", "late", namespace="default", metadata={"ownerReferences": [{"uid": "uid of work"}]})
            api.delete(("jobs", "default", "work"), None)
            return super().execute(command, check=check)

    impatient = Hand(hand.folder, deadline=Deadline(1))
    with pytest.raises(TimedOut, match="pod/late still exists"):
        cluster.delete([Ref("Job", "work")], [Command(("true",))], impatient, wait=True, ignore_not_found=False)

    assert "pod/late to be gone" in impatient.waits
