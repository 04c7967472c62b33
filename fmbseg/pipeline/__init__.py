"""The stages: what a stage is, the table of them all, and how one is run."""
