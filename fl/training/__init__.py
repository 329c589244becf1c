"""What a client does: local training, its engines and tasks, and evaluation; it imports `models`, `algorithms`, `data`
and what lies below."""
