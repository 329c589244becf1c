"""Federated training of ResNet-18 on CIFAR-10 (or of any other model and data set)."""

from fl.common.stopping import stopping

if __name__ == "__main__":
    with stopping.on_signals():  # from here on, while the rest is imported
        from fl.run.cli import main

        main()
