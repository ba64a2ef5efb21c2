"""The command `openclip-triton`."""

import io
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

from openclip_triton.bulk.errors import JobError, Stopped
from openclip_triton.errors import ClientError

FAILURE = 1
USAGE = 2
INTERRUPTED = 130
AGAIN = "run the same command again to continue"
# The extra that brings a package.
EXTRAS: Mapping[str | None, str] = MappingProxyType(
    {
        "rich": "cli",
        "typer": "cli",
        "fsspec": "bulk",
        "pyarrow": "bulk",
        "lancedb": "lance",
        "ray": "ray",
    }
)


def main() -> None:
    """Run a command; print an error as one line and exit with a status."""
    for stream in (sys.stdin, sys.stdout):  # UTF-8 in any locale; other bytes stay visible
        if isinstance(stream, io.TextIOWrapper):
            reading = stream is sys.stdin
            stream.reconfigure(
                encoding="utf-8", errors="surrogateescape" if reading else "backslashreplace"
            )
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
    except BrokenPipeError:
        # The reader closed the pipe; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILURE)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = f"openclip-triton-client[{EXTRAS[error.name]}]"
        _end(f"{error.name} is not installed: pip install '{extra}'", FAILURE)
    except (OSError, UnicodeError) as error:
        _end(str(error), FAILURE)


def _end(message: str, status: int) -> None:
    print(f"openclip-triton: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
