"""What a run leaves behind: tables, checkpoints, summary, figures and pages; it imports `training`, `comm` and what lies
below."""
