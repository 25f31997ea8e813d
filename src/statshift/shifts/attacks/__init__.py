"""Worst cases, found by projected ascent: of a batch's feature statistics, and of its pixels."""

from statshift.shifts.attacks.attack import Attack as Attack
from statshift.shifts.attacks.attack import describe_attack as describe_attack
from statshift.shifts.attacks.autoattack import AutoAttack as AutoAttack
from statshift.shifts.attacks.balls import Ball as Ball
from statshift.shifts.attacks.catalogue import attack_named as attack_named
from statshift.shifts.attacks.catalogue import parse_attack as parse_attack
from statshift.shifts.attacks.features import FeatureAttack as FeatureAttack
from statshift.shifts.attacks.features import attack_features as attack_features
from statshift.shifts.attacks.features import batch_moments as batch_moments
from statshift.shifts.attacks.features import initial_factors as initial_factors
from statshift.shifts.attacks.features import perturb as perturb
from statshift.shifts.attacks.gradients import HALF_SCALE as HALF_SCALE
from statshift.shifts.attacks.gradients import gradient_of as gradient_of
from statshift.shifts.attacks.pixels import LogitLoss as LogitLoss
from statshift.shifts.attacks.pixels import PixelAttack as PixelAttack
from statshift.shifts.attacks.pixels import attack_pixels as attack_pixels
from statshift.shifts.attacks.pixels import cross_entropy as cross_entropy
from statshift.shifts.attacks.pixels import random_offset as random_offset
from statshift.shifts.attacks.whitebox import attack_images as attack_images
from statshift.shifts.attacks.whitebox import attackable as attackable
from statshift.shifts.attacks.whitebox import check_attack as check_attack
from statshift.shifts.attacks.whitebox import check_gradient as check_gradient
from statshift.shifts.attacks.whitebox import logits_of as logits_of
from statshift.shifts.attacks.whitebox import targets_of as targets_of
from statshift.shifts.attacks.whitebox import wide_logits as wide_logits
from statshift.shifts.registry import ATTACKS as ATTACKS
