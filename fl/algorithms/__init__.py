"""What clients and server do in a round beside training and averaging: the option `--algorithm`. Imports `common`
alone."""
