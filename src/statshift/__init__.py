"""statshift measures, adapts and hardens vision models against distribution shift."""

from statshift.adaptation import AdaptationOptions as AdaptationOptions
from statshift.comparison import Comparison as Comparison
from statshift.comparison import compare as compare
from statshift.corruptions import COMMON as COMMON
from statshift.corruptions import CORRUPTIONS as CORRUPTIONS
from statshift.corruptions import HOLDOUT as HOLDOUT
from statshift.corruptions import corrupt as corrupt
from statshift.data import ImageData as ImageData
from statshift.data import load_data as load_data
from statshift.diagnosis import Diagnosis as Diagnosis
from statshift.diagnosis import diagnose as diagnose
from statshift.errors import InputError as InputError
from statshift.measurement import Measurement as Measurement
from statshift.measurement import Progress as Progress
from statshift.measurement import measure as measure
from statshift.models import PixelModel as PixelModel
from statshift.models import load_model as load_model
from statshift.rectification import rectified as rectified
from statshift.rectification import rectify as rectify
from statshift.results import read_run as read_run
from statshift.shifts import CorruptionOptions as CorruptionOptions
from statshift.streaming import RectifiedStream as RectifiedStream
from statshift.sweeps import sweep as sweep
