"""The runner without a part of what keeps it safe: `unguarded crashes|masking ARGUMENT…`. The difference to the whole
is what that part costs. Only the benchmark starts it.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from runner import __main__, journal, masking, shell, watchdog

PARTS: Final[dict[str, tuple[tuple[Any, str], ...]]] = {
    "crashes": (
        (os, "fsync"),
        (journal.Journal, "_write"),
        (watchdog.Watchdog, "__call__"),
        (shell, "keep_ledger"),
    ),
    "masking": ((masking.Mask, "hide"),),
}
"""What does nothing, by the part that is left out."""

if __name__ == "__main__":
    for where, name in PARTS[sys.argv.pop(1)]:
        setattr(where, name, lambda *_: None)
    sys.exit(__main__.program())
