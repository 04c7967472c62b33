"""Stage 1 on any pictures, without a project: one in memory (`Labeller`), or a whole folder."""
