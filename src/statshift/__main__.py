"""`python -m statshift` is the command `statshift`."""

from statshift.cli import main

main()
