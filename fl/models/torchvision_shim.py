"""Where modules of users look for it: `import_torchvision` lies in `fl.torchvision_shim`."""

from fl.torchvision_shim import import_torchvision

__all__ = ["import_torchvision"]
