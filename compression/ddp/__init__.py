"""Communication hooks for DistributedDataParallel that send a codec's payloads."""
