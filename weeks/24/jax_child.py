"""A process of its own for JAX: asked and answered in JSON.

JAX starts threads that a forked process would inherit broken, so it never enters this one. Modules
that hold numpyro's side of a comparison are run by name, with their imports inside functions.

>>> ask("week24.mean_field_twin", [])
[]
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from shared.require import require


def ask(module: str, request: Any) -> Any:
    """What a module makes of a request, in a child with one thread and no accelerator.

    Raises
    ------
    RuntimeError
        With the end of its error output, if the child fails.
    """
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    must = f"{module} must end well"
    require(done.returncode == 0, must, done.stderr[-2000:], error=RuntimeError)
    return json.loads(done.stdout.splitlines()[-1])


def answer(respond: Callable[[Any], Any]) -> None:
    """The child's whole life: 64 bits, one request, one line."""
    import jax

    jax.config.update("jax_enable_x64", True)
    sys.stdout.write(json.dumps(respond(json.load(sys.stdin))) + "\n")
