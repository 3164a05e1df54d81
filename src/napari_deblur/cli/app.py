"""The commands put together, and every mistake turned into one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cyclopts
from cyclopts import App

from napari_deblur import __version__
from napari_deblur.cli import batch, depth, info, psf_basis, runs, steps, train
from napari_deblur.cli.options import Option, Values, command
from napari_deblur.core.errors import CancelledError, InvalidInputError, NapariDeblurError

NAME = "napari-deblur"
OK, OUR_MISTAKE, BAD_INPUT, CANCELLED = 0, 1, 2, 130
TRACEBACK_VARIABLE = "NAPARI_DEBLUR_TRACEBACK"
_HELP = "Restore microscopy images: background, PSF maps, deblurring and depth."
# Names that the steps use for what the user wrote differently.
_WRITTEN = {
    "image": "IN",
    "method": "METHOD",
    "recipe": "RECIPE",
    "inputs": "IN",
    "results": "RESULT",
    "psf_maps": "MAP",
    "stacks": "IN",
    "psf.file": "psf: file",
}


def build() -> App:
    """Return the application with all its commands."""
    settings: dict[str, Any] = {"help_format": "plaintext", "result_action": "return_value"}
    app = App(name=NAME, help=_HELP, version=__version__, **settings)

    def add(
        parent: App, name: str, body: Callable[[Values], int | None], help: str, options: list[Option]
    ) -> None:
        parent.command(command(body, name, help, options), name=name)

    add(app, "demo", info.demo, "Run the main job on a sample and show what it found.", info.demo_options())
    add(app, "background", steps.background, "Take the background off an image.", steps.background_options())
    add(app, "psf-map", steps.psf_map, "Map the PSF over the field of view.", steps.psf_map_options())
    deblur = App(
        name="deblur",
        help="Deblur an image. Each method has its own options: see deblur METHOD --help.",
        usage=f"Usage: {NAME} deblur METHOD IN -o OUT [OPTIONS]\n",
        **settings,
    )
    for id_, method in steps.deblur_methods().items():
        body = partial(steps.deblur, method=method)
        add(deblur, id_, body, f"{method.title}. {method.summary}", steps.deblur_options(method))
    app.command(deblur)
    basis = App(name="psf-basis", help="Make a PSF basis: how a microscope's blur varies.", **settings)
    add(basis, "beads", psf_basis.beads, "Learn it from bead stacks.", psf_basis.beads_options())
    text = "Simulate a microscope whose aberrations vary."
    add(basis, "simulated", psf_basis.simulated, text, psf_basis.simulated_options())
    app.command(basis)
    add(app, "depth", depth.depth, "Estimate the depth of a surface in µm.", depth.depth_options())
    add(app, "calibrate", depth.calibrate, "Calibrate depth with a tilted sample.", depth.calibrate_options())
    add(app, "compare", batch.compare, "Deblur one image with several methods.", batch.compare_options())
    add(app, "run", runs.run, "Run a recipe over files.", runs.run_options())
    add(app, "recipe", batch.recipe, "Write the recipe that repeats results.", batch.recipe_options())
    add(app, "methods", info.methods, "List the deblurring methods.", info.LISTING)
    add(app, "models", info.models, "List the trained networks and verify them.", info.LISTING)
    add(app, "doctor", info.doctor, "Tell what is installed and which hardware is used.", info.LISTING)
    add(app, "train", train.train, "Train a network by its recipe.", train.train_options())
    return app


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error is one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what the user should know is in the notes
    try:
        found = build()(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return found if isinstance(found, int) else OK
    except cyclopts.CycloptsError as error:
        return _say(_usage_error(error, arguments), BAD_INPUT)
    except CancelledError as error:
        return _say(f"cancelled; {error.hint or 'nothing was written'}", CANCELLED)
    except KeyboardInterrupt:
        return _say("interrupted; only what was finished before is written", CANCELLED)
    except NapariDeblurError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return _say(_as_written(error) + hint, BAD_INPUT)
    except MemoryError:
        return _say("memory ran out: close other programs, crop the image, or set --tile-px", BAD_INPUT)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        text = f"unexpected {type(error).__name__}: {error} (set {TRACEBACK_VARIABLE}=1 for the traceback)"
        return _say(text, OUR_MISTAKE)


def _say(text: str, code: int) -> int:
    print(f"{NAME}: {' '.join(text.split())}", file=sys.stderr)
    return code


def _as_written(error: NapariDeblurError) -> str:
    """Name the argument as it is written on the command line."""
    text = str(error).replace("(allow it with overwrite)", "(allow it with --overwrite)")
    if not isinstance(error, InvalidInputError):
        return text
    name = error.argument
    if name in _WRITTEN:
        written = _WRITTEN[name]
    elif name.isidentifier() and name.islower():
        written = "--" + name.replace("_", "-")
    else:
        return text
    return written + text.removeprefix(name)


def _usage_error(error: cyclopts.CycloptsError, arguments: list[str]) -> str:
    """Say what was wrong with the command line itself."""
    name = error.argument.name if error.argument is not None else "the command line"
    chain = list(error.command_chain or ())
    if isinstance(error, cyclopts.UnknownCommandError):
        wrong = repr((error.unused_tokens or arguments or [""])[0])
        if chain == ["deblur"]:
            return f"METHOD must be one of {', '.join(steps.deblur_methods())}; received {wrong}"
        known = [command_name for command_name in build() if not command_name.startswith("-")]
        return f"the command must be one of {', '.join(known)}; received {wrong}"
    if isinstance(error, cyclopts.MissingArgumentError):
        return f"{error.keyword or name} is required; received nothing"
    if isinstance(error, cyclopts.UnknownOptionError):
        wrong = error.token.keyword or error.token.value
        return f"{wrong} is not an option of {' '.join(chain) or NAME}; see --help"
    if isinstance(error, cyclopts.UnusedCliTokensError):
        unused = " ".join(error.unused_tokens or [])
        return f"{' '.join(chain) or NAME} takes no further argument; received {unused!r}"
    return str(error)
