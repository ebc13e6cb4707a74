"""The command line. To add a command, write its module in `commands`, register it here, and name it in `ELSEWHERE` of
`edge.__main__`, which a test compares with what is registered here.

Command functions return their exit code, and `main` turns every failure into 3. The codes 1 and 2, which command lines
commonly use for errors, are verdicts here.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusion_diff.commands.audit import audit_command
from fusion_diff.commands.batch import batch_command
from fusion_diff.commands.certify import certify_command
from fusion_diff.commands.demo import demo_command
from fusion_diff.commands.enroll import enroll_command
from fusion_diff.commands.export import export_command
from fusion_diff.commands.inspect import inspect_command
from fusion_diff.commands.keys import keys_app
from fusion_diff.commands.policy import policy_app
from fusion_diff.commands.pretrain import pretrain_command
from fusion_diff.commands.serve import serve_command
from fusion_diff.commands.service_keys import service_keys_app
from fusion_diff.commands.service_prune import service_prune_command
from fusion_diff.commands.sign import sign_command
from fusion_diff.commands.stopping import TERMINATED
from fusion_diff.commands.terminal import complain
from fusion_diff.commands.validate import validate_command
from fusion_diff.commands.verify import verify_command
from fusion_diff.commands.verify_model import verify_model_command
from fusion_diff.errors import foreseen
from fusion_diff.printable import escape_on_streams, explained, paragraph, printable_lines
from fusion_diff.warn import EnrolmentWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = 3
"""Exit code of a command that failed."""
STOPPED = 130
"""Exit code after Ctrl-C, as in shells."""

app = typer.Typer(name="fusion-diff", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("audit")(audit_command)
app.command("batch")(batch_command)
app.command("certify")(certify_command)
app.command("demo")(demo_command)
app.command("enroll")(enroll_command)
app.command("export")(export_command)
app.command("inspect")(inspect_command)
app.add_typer(keys_app, name="keys")
app.add_typer(policy_app, name="policy")
app.command("pretrain")(pretrain_command)
app.command("serve")(serve_command)
app.add_typer(service_keys_app, name="service-keys")
app.command("service-prune")(service_prune_command)
app.command("sign")(sign_command)
app.command("validate")(validate_command)
app.command("verify")(verify_command)
app.command("verify-model")(verify_model_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from fusion_diff import __version__

        typer.echo(f"fusion-diff {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Verify ceramic microstructures from a handful of labelled micrographs."""


def _mend_help(command: Any) -> None:
    """Leave out what typer shows of the source, also below a group: line breaks, and in some versions `<bool>`."""
    command.help = "\n\n".join(part.replace("\n", " ") for part in command.help.split("\n\n"))
    flags = (each for each in command.params if getattr(each, "is_flag", False))
    for flag in (*flags, command.get_help_option(typer.Context(command))):
        flag.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _mend_help(below)


def _print_to_nobody() -> None:
    """Discard all further printing to stdout, as the final flush would fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_NO_NUMBER = "Input should be a valid number, unable to parse string as a number"
"""What typer says where a comma stands in a number, among others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the arguments; those of this process if omitted.
    """
    escape_on_streams()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnrolmentWarning)  # the commands that enrol print all of them, as notes
        warnings.showwarning = lambda message, *_args, **_kwargs: typer.echo(f"Warning: {paragraph(message)}", err=True)
        try:
            command = typer.main.get_command(app)
            _mend_help(command)
            code = command.main(
                args=None if arguments is None else list(arguments),
                prog_name="fusion-diff",
                standalone_mode=False,
                windows_expand_args=False,  # a file "[3].tif" is no pattern; those who read patterns expand them
            )
            sys.stdout.flush()
        except (typer.Abort, KeyboardInterrupt):  # either, by typer's version, which may return the code too
            code = STOPPED
        except (SystemExit, BrokenPipeError):  # the reader of the pipe has closed it; rich and typer would exit with 1
            _print_to_nobody()
            return FAILED
        except Exception as error:
            show = getattr(error, "show", None)  # an error of usage, whose class depends on typer's version
            if foreseen(error):
                for line in explained(error).split("\n"):  # one for each file that is wrong
                    complain(line)
            elif show is None:
                traceback.print_exc()  # a fault of the program; Python's own code 1 would mean "not authentic"
            else:
                told = printable_lines(error.message)  # type: ignore[attr-defined]  # it repeats what was given
                error.message = told.replace(_NO_NUMBER, "it is no number; write it like 0.1")  # type: ignore[attr-defined]
                show()
            return FAILED
    if code in (STOPPED, TERMINATED):
        typer.echo("Stopped.", err=True)
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
