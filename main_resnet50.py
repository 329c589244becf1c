"""Federated training of ResNet-50 on CIFAR-10: `main.py` with another default model."""

from fl.__main__ import main

if __name__ == "__main__":
    main({"model": "resnet50"})
