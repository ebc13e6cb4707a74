"""`fusion-diff policy`: check and explain a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion_diff.commands.terminal import say

policy_app = typer.Typer(no_args_is_help=True, help="Check and explain policies.")


@policy_app.command("check")
def check_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy, as for `inspect --policy`.")],
) -> int:
    """Explain a policy in plain sentences, or say what is wrong with it."""
    from fusion_diff.inspection.policy import read_policy

    for sentence in read_policy(file).explain():
        say(sentence)
    return 0


@policy_app.callback()
def _group() -> None:
    """Check and explain policies."""
