"""Virtual time: how fast each client computes and sends, and when what it sends arrives. Imports `common` alone."""
