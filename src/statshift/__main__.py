"""`statshift`, and `python -m statshift`, which is the same."""

import sys


def main() -> None:
    """Run the command line; see `statshift.cli.main`."""
    try:
        from statshift.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("statshift: interrupted.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
