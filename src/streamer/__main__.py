"""The console script; `python -m streamer` is `streamer`."""

import sys


def main() -> None:
    """Run the command. Interrupted while it is imported, it says so, too."""
    try:
        from streamer.commands.cli import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
