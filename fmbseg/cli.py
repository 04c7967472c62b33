"""The command line `fmbseg`: thin, quick to start, one line for a user's mistake.

Exit codes: 0 done, 1 `fmbseg monitor` has found drift, 2 a mistake of the user (one line on
stderr), 130 interrupted. Anything else is a bug of this package and shows its traceback.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from fmbseg import __version__
from fmbseg.commands import (
    compare,
    corrections,
    data,
    demo,
    doctor,
    evaluate,
    experiments,
    export,
    export_model,
    label,
    labels,
    models,
    monitor,
    predict,
    preset,
    report,
    review,
    run,
    serve,
    studies,
    table,
    words,
)
from fmbseg.errors import FmbsegError, machine_limit, may_pass, one_line
from fmbseg.machine.plain_text import PlainFormatter, PlainText

USER_MISTAKE = 2
INTERRUPTED = 130
# What the machine refuses (rights, a full disk, a folder where a file should be) is no bug.
_REFUSED = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG}
_REFUSED |= {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP}

app = typer.Typer(
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("label")(label.label)
app.command("export")(export.export)
app.command("review")(review.review)
app.command("export-model")(export_model.export_model)
app.command("monitor")(monitor.monitor)
app.command("table")(table.table)
app.command("table1")(studies.table1)
app.command("ablate")(studies.ablate)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("figures")(report.figures)
app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.command("preset")(preset.preset)
app.command("experiments")(experiments.experiments)
app.add_typer(data.app, name="data")
app.add_typer(corrections.app, name="corrections")
app.add_typer(labels.app, name="labels")
app.add_typer(models.app, name="models")
app.add_typer(words.app, name="words")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"fmbseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Semantic segmentation of any label set without a single annotation."""


def main() -> None:
    """Entry point of the console script."""
    # Before torch starts its threads: those that wait must not spin, which on a busy machine costs
    # many times the work itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A file's or a run's name may hold what steers a terminal, or what it has no characters for.
    sys.stdout = PlainText(sys.stdout)
    # Damaged pictures are named in a line of their own.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("fmbseg: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        result = app(arguments, prog_name="fmbseg", standalone_mode=False)
    except FmbsegError as error:
        return _say(str(error))
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone (`fmbseg table | head`); nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        name, _, _ = (error.name or "").partition(".")
        if name in ("", "fmbseg", "flows"):
            raise
        extra = {"av": "video"}.get(name, "onnx" if name.startswith("onnx") else "pipeline")
        return _say(f"this needs {name}: pip install 'fmbseg[{extra}]'")
    except OSError as error:
        if limit := machine_limit(error):
            return _say(limit)
        if may_pass(error):
            reason = error.strerror or str(error) or type(error).__name__
            return _say(f"{error.filename or 'disk or network'}: {reason}: run it again")
        if error.errno not in _REFUSED:
            raise
        return _say(f"{error.filename or 'disk'}: {error.strerror}: choose another place")
    except Exception as error:
        if limit := machine_limit(error):
            return _say(limit)
        # Typer's own errors (unknown option, missing argument); it brings its own click, whose
        # classes have no public name.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        problem = message().replace("Value error, ", "").rstrip(".")
        return _say(f"{problem}: see `{_command(error)} --help`")
    if result == INTERRUPTED:  # typer swallows Ctrl-C and gives its exit code instead
        return _say("interrupted", INTERRUPTED)
    return result if isinstance(result, int) else 0


def _command(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return "fmbseg" if context is None else str(context.command_path)


def _say(message: str, code: int = USER_MISTAKE) -> int:
    print(f"fmbseg: {one_line(message)}", file=sys.stderr)
    return code
