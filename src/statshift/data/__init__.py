"""Data by spec: `load_data("folder:photographs")` returns images with labels, or with label maps."""

from statshift.data.classes import imagenet_indices as imagenet_indices
from statshift.data.fitting import fit_labels as fit_labels
from statshift.data.fitting import fit_maps as fit_maps
from statshift.data.images import ImageData as ImageData
from statshift.data.images import integers_hash as integers_hash
from statshift.data.loading import has_clean as has_clean
from statshift.data.loading import has_label_maps as has_label_maps
from statshift.data.loading import kept_in_file as kept_in_file
from statshift.data.loading import load_data as load_data
from statshift.data.loading import loading_options as loading_options
from statshift.data.loading import stored_shifts as stored_shifts
from statshift.data.preprocessing import resolve_preprocessing as resolve_preprocessing
