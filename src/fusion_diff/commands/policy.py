"""`fusion-diff policy`: check and explain a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

policy_app = typer.Typer(no_args_is_help=True, help="Check what a line asks of verdicts.")


@policy_app.command("check")
def check_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy, as `inspect --policy` takes it.")],
) -> int:
    """Explain a policy in plain sentences; refuse one that does not say what it could mean."""
    from fusion_diff.commands.terminal import say
    from fusion_diff.inspection.policy import read_policy

    for sentence in read_policy(file).explain():
        say(sentence)
    return 0


@policy_app.callback()
def _group() -> None:
    """Check what a line asks of verdicts."""
