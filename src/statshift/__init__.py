"""statshift measures, adapts and hardens vision models against distribution shift."""

from typing import TYPE_CHECKING

from statshift._core.lazy import lazy

if TYPE_CHECKING:  # what type checkers and editors see of the names below
    from statshift._core.errors import FewImagesWarning as FewImagesWarning
    from statshift._core.errors import InputError as InputError
    from statshift._core.errors import StatshiftWarning as StatshiftWarning
    from statshift.adapting.diagnose import Diagnosis as Diagnosis
    from statshift.adapting.diagnose import diagnose as diagnose
    from statshift.adapting.families import Adapter as Adapter
    from statshift.adapting.families import Rule as Rule
    from statshift.adapting.families import Stream as Stream
    from statshift.adapting.frozen import foolbox_model as foolbox_model
    from statshift.adapting.frozen import frozen as frozen
    from statshift.adapting.online import RectifiedStream as RectifiedStream
    from statshift.adapting.options import AdaptationOptions as AdaptationOptions
    from statshift.adapting.protocol import Protocol as Protocol
    from statshift.adapting.rectify import rectified as rectified
    from statshift.adapting.rectify import rectify as rectify
    from statshift.adapting.sweep import sweep as sweep
    from statshift.data import ImageData as ImageData
    from statshift.data import load_data as load_data
    from statshift.decoding.adain_files import adain_codec as adain_codec
    from statshift.decoding.codec import Codec as Codec
    from statshift.decoding.codec import codec_of as codec_of
    from statshift.hardening.from_scratch import train_from_scratch as train_from_scratch
    from statshift.hardening.harden import Hardened as Hardened
    from statshift.hardening.harden import harden as harden
    from statshift.hardening.landscape import Landscape as Landscape
    from statshift.hardening.method import Method as Method
    from statshift.hardening.methods.advbn import AdvBN as AdvBN
    from statshift.hardening.methods.advbn import advbn_losses as advbn_losses
    from statshift.hardening.methods.adversarial import Adversarial as Adversarial
    from statshift.hardening.methods.auxiliary import AdvProp as AdvProp
    from statshift.hardening.methods.auxiliary import PixelAT as PixelAT
    from statshift.hardening.methods.corrupted import Corrupted as Corrupted
    from statshift.hardening.methods.ligs import LigsRegularised as LigsRegularised
    from statshift.hardening.options import HardenOptions as HardenOptions
    from statshift.hardening.training import TrainingOptions as TrainingOptions
    from statshift.making.advbn import write_advbn as write_advbn
    from statshift.making.adversarial import write_adversarial as write_adversarial
    from statshift.making.decoder import train_decoder as train_decoder
    from statshift.making.decoder_options import DecoderOptions as DecoderOptions
    from statshift.making.extraction import ExtractionOptions as ExtractionOptions
    from statshift.making.extraction import extract as extract
    from statshift.making.rectified import write_rectified as write_rectified
    from statshift.making.visualise import Visualisation as Visualisation
    from statshift.making.visualise import visualise as visualise
    from statshift.measuring.compare import Comparison as Comparison
    from statshift.measuring.compare import compare as compare
    from statshift.measuring.ligs import Ligs as Ligs
    from statshift.measuring.ligs import LigsOptions as LigsOptions
    from statshift.measuring.ligs import ligs as ligs
    from statshift.measuring.measure import measure as measure
    from statshift.measuring.progress import Progress as Progress
    from statshift.measuring.run import Measurement as Measurement
    from statshift.models import PixelModel as PixelModel
    from statshift.models import exchange_norm as exchange_norm
    from statshift.models import load_model as load_model
    from statshift.norms.statistics import ChannelStatistics as ChannelStatistics
    from statshift.recipes.running import run_recipe as run_recipe
    from statshift.report.building import write_report as write_report
    from statshift.results import read_run as read_run
    from statshift.shifts.attacks import AutoAttack as AutoAttack
    from statshift.shifts.attacks import FeatureAttack as FeatureAttack
    from statshift.shifts.attacks import PixelAttack as PixelAttack
    from statshift.shifts.attacks import attack_images as attack_images
    from statshift.shifts.corruptions import COMMON as COMMON
    from statshift.shifts.corruptions import CORRUPTIONS as CORRUPTIONS
    from statshift.shifts.corruptions import HOLDOUT as HOLDOUT
    from statshift.shifts.corruptions import corrupt as corrupt
    from statshift.shifts.shift import CorruptionOptions as CorruptionOptions
    from statshift.shifts.shift import Shift as Shift
    from statshift.splitting.branches import Branches as Branches
    from statshift.splitting.cuts import Cut as Cut
    from statshift.splitting.cuts import find_cuts as find_cuts
    from statshift.splitting.parts import Split as Split
    from statshift.splitting.split import split as split
    from statshift.tasks.classification import Classification as Classification
    from statshift.tasks.segmentation import Segmentation as Segmentation
    from statshift.tasks.subset import ClassSubset as ClassSubset
    from statshift.tasks.task import Task as Task
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            # Measure
            "statshift.measuring.measure": ("measure",),
            "statshift.measuring.progress": ("Progress",),
            "statshift.measuring.run": ("Measurement",),
            "statshift.measuring.compare": ("Comparison", "compare"),
            "statshift.measuring.ligs": ("Ligs", "LigsOptions", "ligs"),
            "statshift.results": ("read_run",),
            "statshift.recipes.running": ("run_recipe",),
            # Report
            "statshift.report.building": ("write_report",),
            # Adapt
            "statshift.adapting.diagnose": ("Diagnosis", "diagnose"),
            "statshift.adapting.rectify": ("rectified", "rectify"),
            "statshift.adapting.online": ("RectifiedStream",),
            "statshift.adapting.frozen": ("foolbox_model", "frozen"),
            "statshift.adapting.sweep": ("sweep",),
            "statshift.adapting.options": ("AdaptationOptions",),
            "statshift.adapting.protocol": ("Protocol",),
            "statshift.adapting.families": ("Adapter", "Rule", "Stream"),
            "statshift.norms.statistics": ("ChannelStatistics",),
            # Harden
            "statshift.hardening.harden": ("Hardened", "harden"),
            "statshift.hardening.options": ("HardenOptions",),
            "statshift.hardening.training": ("TrainingOptions",),
            "statshift.hardening.method": ("Method",),
            "statshift.hardening.methods.advbn": ("AdvBN", "advbn_losses"),
            "statshift.hardening.methods.adversarial": ("Adversarial",),
            "statshift.hardening.methods.auxiliary": ("AdvProp", "PixelAT"),
            "statshift.hardening.methods.corrupted": ("Corrupted",),
            "statshift.hardening.methods.ligs": ("LigsRegularised",),
            "statshift.hardening.from_scratch": ("train_from_scratch",),
            "statshift.hardening.landscape": ("Landscape",),
            "statshift.splitting.branches": ("Branches",),
            "statshift.splitting.cuts": ("Cut", "find_cuts"),
            "statshift.splitting.parts": ("Split",),
            "statshift.splitting.split": ("split",),
            # Corrupt and attack
            "statshift.shifts.corruptions": ("COMMON", "CORRUPTIONS", "HOLDOUT", "corrupt"),
            "statshift.shifts.shift": ("CorruptionOptions", "Shift"),
            "statshift.shifts.attacks": ("AutoAttack", "FeatureAttack", "PixelAttack", "attack_images"),
            # Make
            "statshift.making.adversarial": ("write_adversarial",),
            "statshift.making.advbn": ("write_advbn",),
            "statshift.making.visualise": ("Visualisation", "visualise"),
            "statshift.making.decoder": ("train_decoder",),
            "statshift.making.decoder_options": ("DecoderOptions",),
            "statshift.decoding.codec": ("Codec", "codec_of"),
            "statshift.decoding.adain_files": ("adain_codec",),
            "statshift.making.extraction": ("ExtractionOptions", "extract"),
            "statshift.making.rectified": ("write_rectified",),
            # Models, data, tasks, errors and warnings
            "statshift.models": ("PixelModel", "exchange_norm", "load_model"),
            "statshift.data": ("ImageData", "load_data"),
            "statshift.tasks.task": ("Task",),
            "statshift.tasks.classification": ("Classification",),
            "statshift.tasks.subset": ("ClassSubset",),
            "statshift.tasks.segmentation": ("Segmentation",),
            "statshift._core.errors": ("FewImagesWarning", "InputError", "StatshiftWarning"),
        },
    )
