"""Random crops and mirror images of a whole batch at once, on uint8."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from fl.common.errors import ConfigError

from .augment_spec import read_augment


class Augment:
    """Augmentation of a batch from a specification (`read_augment`).

    `crop:P` pads P black pixels all round and cuts the original size out at random; `flip` mirrors every second image
    on average, left to right (both as in He et al. 2016).
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.padding, self.flip = read_augment(spec)

    def check_shape(self, sample_shape: Sequence[int]) -> None:
        """ConfigError if samples of this shape are no images [C, H, W], or too small for the padding."""
        if not (self.padding or self.flip):
            return
        if len(sample_shape) != 3:
            raise ConfigError(
                f"--augment {self.spec} is for images [channels, height, width]; the samples of --dataset are "
                f"{list(sample_shape)}, so it must be none"
            )
        _, height, width = sample_shape
        if self.padding >= min(height, width):
            raise ConfigError(f"--augment crop:{self.padding} must be smaller than the {height}x{width} images")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A new batch from `x`, uint8 [B, C, H, W]; or `x` itself, whatever it is, if there is nothing to do.

        The CPU generator is the only source of randomness, so the result does not depend on the device. ConfigError
        if the padding is not smaller than the image.
        """
        if not (self.padding or self.flip):
            return x
        batch, channels, height, width = x.shape
        self.check_shape(x.shape[1:])
        rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        if self.flip:
            mirrored = torch.randint(2, (batch, 1), generator=generator, dtype=torch.bool, device="cpu")
            mirrored = mirrored.to(x.device, non_blocking=True)
            columns = torch.where(mirrored, width - 1 - columns, columns)
        if self.padding:
            corners = torch.randint(2 * self.padding + 1, (2, batch, 1), generator=generator, device="cpu")
            top, left = corners.to(x.device, non_blocking=True)
            rows, columns = rows + top, columns + left
            x = pad(x, (self.padding,) * 4)
        flat = rows.view(-1, height, 1) * x.shape[3] + columns.view(-1, 1, width)
        flat = flat.view(-1, 1, height * width).expand(batch, channels, -1)
        return x.flatten(2).gather(2, flat).view(batch, channels, height, width)
