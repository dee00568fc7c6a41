"""The command line. Each command parses, calls one function, and prints what came back."""

from __future__ import annotations

import sys
import traceback

from rich.markup import escape

from chainsweep.cli import campaigns, cluster, jobs
from chainsweep.cli.shared import app, err
from chainsweep.errors import ChainsweepError

__all__ = ["app", "campaigns", "cluster", "jobs", "main"]


def main() -> None:
    """Run the command line; every error ends with one message and the exit code that belongs to it."""
    try:
        app()
    except ChainsweepError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        err.print("[bold red]internal error:[/bold red] this is a bug in chainsweep; the trace above says where")
        sys.exit(ChainsweepError.exit_code)
