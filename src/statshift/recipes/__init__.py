"""The authors' experiments as configurations: a recipe is a function that returns what to train, by label."""

from statshift.recipes.catalogue import NOT_TRAINED as NOT_TRAINED
from statshift.recipes.catalogue import RECIPES as RECIPES
from statshift.recipes.catalogue import recipe as recipe
from statshift.recipes.configuration import BASE as BASE
from statshift.recipes.configuration import COLUMNS as COLUMNS
from statshift.recipes.configuration import Network as Network
from statshift.recipes.configuration import Recipe as Recipe
from statshift.recipes.hardening import HARDENING as HARDENING
from statshift.recipes.hardening import authors_branch as authors_branch
from statshift.recipes.normalization import NORMALIZATION as NORMALIZATION
