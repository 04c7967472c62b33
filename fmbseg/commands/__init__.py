"""The subcommands of `fmbseg`; each imports what it needs when it runs."""
