"""Federated training of ResNet-50 on CIFAR-10: `main.py` with another default model."""

from fl.run.cli import main

if __name__ == "__main__":
    main(defaults={"model": "resnet50"})
