"""`python -m llamita` is the same as `llamita`."""

from llamita.cli.app import main

main()
