"""The command `openclip-triton`."""

import io
import sys

from openclip_triton.bulk.errors import JobError, Stopped
from openclip_triton.errors import ClientError

FAILURE = 1
USAGE = 2
INTERRUPTED = 130
AGAIN = "run the same command again to continue"
# The extra that brings a package.
EXTRAS = {
    "rich": "cli", "typer": "cli", "fsspec": "bulk", "pyarrow": "bulk", "lancedb": "lance",
    "ray": "ray",
}  # fmt: skip


def main() -> None:
    """Run a command; print an error as one line and exit with a status."""
    # UTF-8 in any locale; other bytes stay visible.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)
    try:
        from openclip_triton.command.cli import app

        app(prog_name="openclip-triton")
    except Stopped as stopped:
        if stopped.interrupted:
            _end(f"Interrupted. {stopped.kept}; {AGAIN}.", INTERRUPTED)
        _end(f"{stopped}. {stopped.kept}; {AGAIN}.", FAILURE)
    except KeyboardInterrupt:
        _end("Interrupted.", INTERRUPTED)
    except JobError as error:
        _end(f"{error}.", USAGE)
    except ClientError as error:
        _end(error.message, FAILURE)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        package = f"openclip-triton-client[{extra}]"
        _end(f"{error.name} is not installed: pip install '{package}'", FAILURE)
    except (OSError, UnicodeError) as error:
        _end(str(error), FAILURE)


def _end(message: str, status: int) -> None:
    print(f"openclip-triton: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
