"""Runs across sites on Flower's engine: the apps that `leanfed deploy` names."""
