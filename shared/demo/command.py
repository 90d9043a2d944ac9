"""`study demo`: the chain from its material to its page."""

import os
import signal
from pathlib import Path

from rich.console import Console

from shared import pretrained
from shared.demo import material, page
from shared.demo.runner import Chain, alone
from shared.demo.steps import steps
from shared.errors import UserError
from shared.require import require
from shared.signals import like_ctrl_c

__all__ = ["demo"]

OURS = ".demo"  # the file that tells our folders from others, and that is held by who works there
CLOSED = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # the terminal was: no child hears it


def demo(out: Path, *, quick: bool, start: str, console: Console) -> None:
    """Run the chain in a folder and write its page.

    Raises
    ------
    UserError
        A mistake in the command, or a step that failed.
    """
    ours = (out / OURS).is_file() or not os.path.lexists(out)
    ours = ours or (out.is_dir() and not any(out.iterdir()))
    require(ours, "--out must be a new folder or that of an earlier demo", out, error=UserError)
    try:
        pretrained.smollm2()
        smollm2 = True
    except UserError as error:
        smollm2 = False
        if not quick:
            console.print(f"without SmolLM2, tiny_gpt's model only: {error}", soft_wrap=True)
    chain = Chain(out, steps(quick=quick, smollm2=smollm2), console, start=start)
    out.mkdir(parents=True, exist_ok=True)
    with alone(out / OURS) as chain.held, like_ctrl_c(*CLOSED):
        for folder in ("marks", "logs"):
            (out / folder).mkdir(exist_ok=True)
        try:
            chain.run(material.write(out, quick=quick))
        except KeyboardInterrupt:
            console.print("what is done is kept: the same command goes on from there")
            raise
        written = page.write(chain)
    console.print(f"\n{os.path.relpath(written)} links every report", soft_wrap=True)
