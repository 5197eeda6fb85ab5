"""What `release` and `reject` share: a person decides what becomes of a result that the gate refused."""

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli._node import opened, say_if_still, study_named, unknown_study
from node.cli.common import common_options, print_json, settings_of

if TYPE_CHECKING:
    from node.cli._words import Words
    from node.withheld import Decided, What


def decision(name: str, about: str, what: "What", done: str) -> click.Command:
    """Return the command `name`. Exit code 3: nothing was decided; then it says why."""

    @click.command(name=name, help=about)
    @click.argument("study", required=False)
    @click.option("--job", type=int, help="Number of one job, as `show` says it.")
    @click.option("--why", required=True, help="What you saw; it stays with the study.")
    @click.option("--by", help="Who decides; by default the name that this machine knows you by.")
    @common_options
    def command(
        study: str | None, job: int | None, why: str, by: str | None, config_file: Path | None, *, as_json: bool,
        quiet: bool, verbose: bool,
    ) -> int:  # fmt: skip
        from node import withheld
        from node.cli._words import words
        from node.store import withheld as rows

        del verbose
        if (study is None) == (job is None):
            raise click.UsageError("name a STUDY or a --job")
        if not why.strip():
            raise click.UsageError("--why: say what you saw")
        settings = settings_of(config_file)
        with opened(settings) as (db, folder):
            found = study_named(db, study) if study is not None else None
            if study is not None and found is None:
                return unknown_study(settings, as_json=as_json)
            jobs = rows.undecided(db, study_uid=found.uid if found else None, job_id=job)
            who = by or getpass.getuser()
            decided = [withheld.decide(db, folder, j, time.time(), what, by=who, why=why.strip()) for j in jobs]
        if as_json:
            print_json(
                {"schema": f"pacs-ai-node/{name}/1", "count": _count(decided), "jobs": [_told(d) for d in decided]}
            )
        elif not quiet:
            say_if_still(folder)
            _say(decided, done, words(settings))
        return 0 if _count(decided) else 3

    return command


def _count(decided: "list[Decided]") -> int:
    return sum(d.reason is None for d in decided)


def _told(one: "Decided") -> dict[str, object]:
    reason = None if one.reason is None else one.reason.as_json()
    return {"job": one.job, "codes": list(one.codes), "done": one.reason is None, "reason": reason}


def _say(decided: "list[Decided]", done: str, words: "Words") -> None:
    from node.reasons import REASONS

    for one in decided:
        click.echo(f"job {one.job} ({', '.join(one.codes)}): {done if one.reason is None else 'kept back'}")
        if one.reason is not None:
            click.echo("\n".join(words.reason(one.reason.as_json(), indent=2)))
    if not decided:
        click.echo("\n".join(words.reason(REASONS("nothing-withheld").as_json(), indent=0)))
