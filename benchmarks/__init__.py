"""What this project claims of speed and memory, each claim beside its alternative."""
