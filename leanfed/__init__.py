"""The installed package's own name: `leanfed.compression` has the codecs, `fl` the trainer."""
