"""``distrib verify CLAIM``: proves a promise on the machines at hand, with the launcher that is used there."""

import importlib
import sys

from distrib.settings import nearest

USAGE = """usage: distrib verify CLAIM [ARGUMENTS]; `distrib verify CLAIM --help` tells more of each CLAIM:

  restart    a run that was killed is bit for bit the run that was not
  order      any number of processes sees the same images, varied in the same way, in every update
  exact      an --exact run is bit for bit the same on any number of processes, even if that changes"""

CLAIMS = {"restart": "restarts", "order": "orders", "exact": "exactness"}
"""The module of each."""
PARTS = {"seen": "seeing"}
"""What a claim starts as processes."""


def main(arguments: list[str]) -> int:
    """Verify the claim that the arguments begin with; return the exit code."""
    claim, *rest = arguments or ["--help"]
    if claim in ("--help", "-h"):
        print(USAGE)
        return 0
    if claim not in CLAIMS | PARTS:
        print(f"error: '{claim}' cannot be verified{nearest(claim, tuple(CLAIMS))}\n\n{USAGE}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"distrib.insight.{(CLAIMS | PARTS)[claim]}").main(rest)
    return code
