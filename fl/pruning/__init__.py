"""Which submodel each client trains and exchanges, and who decides. Imports `training`, `comm` and
what lies below them."""
