"""MLflow: what a tracked run consists of, and how it gets there."""
