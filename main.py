"""Federated training of ResNet-18 on CIFAR-10 (or of any other model and data set)."""

import os

from fl.common.stopping import stopping

if __name__ == "__main__":
    # A rank that is gone is told in a sentence, not in C++ frames.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with stopping.on_signals():  # from here on, while the rest is imported
        from fl.run.cli import main

        main()
