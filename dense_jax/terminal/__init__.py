"""Output for people: progress, summaries, tables and the next command."""
