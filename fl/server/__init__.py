"""The server on rank 0: the mean of updates and the optimizer's step; it imports `algorithms`, `comm` and what lies
below."""
