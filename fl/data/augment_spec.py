"""The option `--augment`: `none`, or stages of `crop:PIXELS` and `flip`, joined by `+`."""

from compression.spec import SpecError, nearest, parse


def read_augment(spec: str) -> tuple[int, bool]:
    """The padding in pixels, 0 without crop, and whether images are mirrored; SpecError for what cannot be meant."""
    padding, flip = 0, False
    stages = parse(spec)
    for stage in stages:
        if stage.name == "crop":
            padding = stage.expect(1).integer(0, 1, "the padding in pixels")
        elif stage.name == "flip":
            stage.expect(0)
            flip = True
        elif stage.name == "none":
            stage.expect(0)
        else:
            raise SpecError(
                f"'{spec}': there is no augmentation '{stage.name}'{nearest(stage.name, ['none', 'crop', 'flip'])}"
            )
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names) or ("none" in names and len(names) > 1):
        raise SpecError(f"'{spec}' must name each stage once, and none only alone")
    return padding, flip
