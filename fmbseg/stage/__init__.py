"""What a stage is: its row in the table, its content key, its work on disk."""
