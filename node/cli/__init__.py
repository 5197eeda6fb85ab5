"""The command line: one file per command, loaded when it is called.

``pacs-ai-node --help`` loads no DICOM library and no torch; a command imports what it needs when it runs.
"""

import importlib
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version

import click

# name -> one line; the module is node.cli.<name with underscores>, its click command is `command`
COMMANDS = {
    "process": "Analyse folders, zip files or single files of DICOM; no network, no database.",
    "serve": "Run the node: receive, analyse, deliver.",
    "status": "What the node is doing now.",
    "studies": "Studies that the node knows.",
    "show": "Everything about one study: timeline, results, deliveries.",
    "resend": "Send a study's results again.",
    "retry": "Run a failed or dead job again.",
    "cancel": "Cancel a study's or one job's pending work.",
    "release": "Let go what the gate refused, after looking at it.",
    "reject": "Say that what the gate refused never leaves.",
    "dismiss": "End an alarm that has been seen to.",
    "echo": "Ask whether a destination answers, and whether it answers queries.",
    "probe": "Send a display test to a destination: what it takes, and what its viewer shows.",
    "check-config": "Read the configuration and say what it means.",
    "doctor": "Check this machine and this installation.",
    "models": "Pipelines of this installation and what they rest on.",
    "quality": "Limits of image quality of this site, and charts of each device.",
    "demo": "The main job end to end on this machine alone.",
    "phantom": "Write a chest CT, or a radiograph, with known truth as DICOM.",
}


def installed_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("pacs-ai-node")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"


class _Lazy(click.Group):
    """A group whose commands are imported when they are called; its help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"node.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(installed_version(), prog_name="pacs-ai-node")
def cli() -> None:
    """Run a DICOM-native AI node: chest CT in, SEG and structured reports back into the PACS.

    Exit codes: 0 done, 1 something failed that should have worked, 2 wrong use, 3 worked but without a result for at
    least one study, 130 interrupted.
    """


def main() -> None:
    """Run the command line; an interruption ends with 130, wrong use with 2, both with a document where one was asked for.

    Matrices are multiplied on one core, here and in every child, unless the environment says otherwise: ours are so small that
    several threads of one product wait for each other on a busy machine, ten times as long as the work takes.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is loaded: no command has been yet
    try:
        code = cli.main(prog_name="pacs-ai-node", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        _document("interrupted", "interrupted; nothing half-written is left behind")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        _document("wrong-use", error.format_message())
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _document(code: str, text: str) -> None:
    """Print the error as the one JSON document of a command that was called with ``--json``."""
    if "--json" in sys.argv[1:]:
        click.echo(json.dumps({"error": {"code": code, "text": {"en": text}}}, ensure_ascii=False))
