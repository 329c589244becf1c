"""What every room uses: options, errors, seeds, ranks, paths and files; it imports only `compression`."""
