"""`python -m fmbseg`: the command line."""

from fmbseg.cli import main

main()
