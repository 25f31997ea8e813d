"""Worst cases, found by projected ascent: of a batch's feature statistics, and of its pixels."""

from statshift.attacks.autoattack import AutoAttack as AutoAttack
from statshift.attacks.catalogue import ATTACKS as ATTACKS
from statshift.attacks.catalogue import STEPPED as STEPPED
from statshift.attacks.catalogue import is_attack as is_attack
from statshift.attacks.catalogue import parse_attack as parse_attack
from statshift.attacks.features import FeatureAttack as FeatureAttack
from statshift.attacks.features import attack_features as attack_features
from statshift.attacks.features import batch_moments as batch_moments
from statshift.attacks.features import initial_factors as initial_factors
from statshift.attacks.features import perturb as perturb
from statshift.attacks.gradients import HALF_SCALE as HALF_SCALE
from statshift.attacks.gradients import gradient_of as gradient_of
from statshift.attacks.pixels import LogitLoss as LogitLoss
from statshift.attacks.pixels import PixelAttack as PixelAttack
from statshift.attacks.pixels import attack_pixels as attack_pixels
from statshift.attacks.pixels import cross_entropy as cross_entropy
from statshift.attacks.pixels import random_offset as random_offset
from statshift.attacks.whitebox import attack_images as attack_images
from statshift.attacks.whitebox import attackable as attackable
from statshift.attacks.whitebox import check_gradient as check_gradient
from statshift.attacks.whitebox import check_images as check_images
from statshift.attacks.whitebox import logits_of as logits_of
from statshift.attacks.whitebox import targets_of as targets_of
