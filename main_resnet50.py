"""Federated training of ResNet-50 on CIFAR-10: `main.py` with another default model."""

from fl.common.stopping import stopping

if __name__ == "__main__":
    with stopping.on_signals():  # from here on, while the rest is imported
        from fl.run.cli import main

        main(defaults={"model": "resnet50"})
