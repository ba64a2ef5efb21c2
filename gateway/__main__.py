"""`python -m gateway`: print the help, or serve until stopped."""

import argparse
import os
import sys
import textwrap

# Before numpy is imported. OpenBLAS's threads spin after each product: on two cores, one image
# against 1,000 labels then costs 10 ms of them, not 0.4 (AMD EPYC, 2026-11-21).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from pydantic.fields import FieldInfo

from gateway.settings import PREFIX, Settings


def main() -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    _parse_arguments()
    # The help needs none of these imports, which take a second of CPU.
    from gateway.operations.signals import hold_hang_up

    with hold_hang_up():
        from gateway.process.start import start

        return start()


def _parse_arguments() -> None:
    fields = Settings.model_fields.items()
    variables = "\n".join(_described(name, field) for name, field in fields)
    argparse.ArgumentParser(
        prog="python -m gateway",
        description="Serves the models of a Triton model repository over REST and gRPC.",
        epilog=f"environment variables:\n{variables}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()


def _described(name: str, field: FieldInfo) -> str:
    default = "" if field.default in (None, (), {}) else f" (default: {field.default})"
    indent = " " * 6
    text = f"{field.description}{default}"
    filled = textwrap.fill(text, 96, initial_indent=indent, subsequent_indent=indent)
    return f"  {PREFIX}{name.upper()}\n{filled}"


if __name__ == "__main__":
    sys.exit(main())
