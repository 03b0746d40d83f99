"""What `check` looks at: each module asks one thing and gives findings with their remedies."""
