"""Where modules of users look for it: `import_torchvision` lies in `fl.common.torchvision_shim`."""

from fl.common.torchvision_shim import import_torchvision

__all__ = ["import_torchvision"]
