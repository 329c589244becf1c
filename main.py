"""Federated training of ResNet-18 on CIFAR-10 (or of any other model and data set)."""

from fl.__main__ import main

if __name__ == "__main__":
    main()
