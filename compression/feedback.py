"""The specification of error feedback, read without torch; `Sender` says what each does."""

from typing import TYPE_CHECKING

from .grammar import CodecSpec
from .spec import SpecError, Stage, nearest, parse_stage

if TYPE_CHECKING:
    from .codec import Codec

FEEDBACK_NAMES = ("none", "residual", "dgc")


def read_feedback(text: str, codec: "CodecSpec | Codec") -> Stage:
    """Read `none`, `residual[:DECAY]` or `dgc:MOMENTUM`; SpecError for anything else, or where this codec
    does without."""
    stage = parse_stage(text)
    if stage.name not in FEEDBACK_NAMES:
        raise SpecError(f"there is no error feedback '{stage.name}'{nearest(stage.name, FEEDBACK_NAMES)}")
    if stage.name == "residual" and stage.args:
        stage.expect(1, example="residual:0.95").number(0, 0, 1, "the decay")
        return stage
    if stage.name != "dgc":
        return stage.expect(0)
    stage.expect(1).number(0, 0, 0.9999, "the momentum")
    if not codec.sparse:
        raise SpecError(
            f"{text} corrects the momentum of coordinates that wait, and '{codec.spec}' leaves none out: "
            "use topk, prune, threshold, randk or cost"
        )
    return stage
