"""Models by spec: `load_model("timm:resnet50")` returns one that takes images in [0,1]."""

from typing import TYPE_CHECKING

from statshift._core.lazy import lazy

if TYPE_CHECKING:
    from statshift.models.checkpoints import check_writable as check_writable
    from statshift.models.checkpoints import load_weights as load_weights
    from statshift.models.checkpoints import save_weights as save_weights
    from statshift.models.checkpoints import weights_hash as weights_hash
    from statshift.models.exchange import NORMS as NORMS
    from statshift.models.exchange import exchange_norm as exchange_norm
    from statshift.models.exchange import make_norm as make_norm
    from statshift.models.loading import load_model as load_model
    from statshift.models.origin import made_by as made_by
    from statshift.models.origin import read_header as read_header
    from statshift.models.origin import read_made_by as read_made_by
    from statshift.models.pixel import PixelModel as PixelModel
    from statshift.models.pixel import Preprocessing as Preprocessing
    from statshift.models.pixel import check_input as check_input
    from statshift.models.pixel import class_logits as class_logits
    from statshift.models.pixel import extract_logits as extract_logits
    from statshift.models.pixel import pixel_model as pixel_model
    from statshift.models.reading import read_state as read_state
    from statshift.models.sources import source_hash as source_hash
    from statshift.models.usercode import import_function as import_function
    from statshift.models.usercode import import_value as import_value
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "statshift.models.checkpoints": (
                "check_writable",
                "load_weights",
                "save_weights",
                "weights_hash",
            ),
            "statshift.models.exchange": ("NORMS", "exchange_norm", "make_norm"),
            "statshift.models.loading": ("load_model",),
            "statshift.models.origin": ("made_by", "read_header", "read_made_by"),
            "statshift.models.pixel": (
                "PixelModel",
                "Preprocessing",
                "check_input",
                "class_logits",
                "extract_logits",
                "pixel_model",
            ),
            "statshift.models.reading": ("read_state",),
            "statshift.models.sources": ("source_hash",),
            "statshift.models.usercode": ("import_function", "import_value"),
        },
    )
