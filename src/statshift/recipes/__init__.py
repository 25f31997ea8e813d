"""The authors' experiments as configurations: a recipe is a function that returns what to train or measure, by label.

`RECIPES` has them by name; `writing` writes one to a file to edit, and `files` reads it.
"""

from statshift.recipes.catalogue import NOT_HERE as NOT_HERE
from statshift.recipes.catalogue import NOT_TRAINED as NOT_TRAINED
from statshift.recipes.catalogue import RECIPES as RECIPES
from statshift.recipes.catalogue import changed as changed
from statshift.recipes.catalogue import recipe as recipe
from statshift.recipes.configuration import ANALYSES as ANALYSES
from statshift.recipes.configuration import BASE as BASE
from statshift.recipes.configuration import COLUMNS as COLUMNS
from statshift.recipes.configuration import DATA_SETS as DATA_SETS
from statshift.recipes.configuration import PAPERS as PAPERS
from statshift.recipes.configuration import RECTIFIED as RECTIFIED
from statshift.recipes.configuration import Network as Network
from statshift.recipes.configuration import Recipe as Recipe
from statshift.recipes.configuration import RecipeError as RecipeError
from statshift.recipes.configuration import places as places
from statshift.recipes.description import ABSENT as ABSENT
from statshift.recipes.description import describe as describe
from statshift.recipes.description import name_of as name_of
from statshift.recipes.description import percent as percent
from statshift.recipes.files import read_recipe as read_recipe
from statshift.recipes.hardening import AUTHORS_BRANCH as AUTHORS_BRANCH
from statshift.recipes.hardening import HARDENING as HARDENING
from statshift.recipes.hardening import authors_branch as authors_branch
from statshift.recipes.measuring import MEASURING as MEASURING
from statshift.recipes.normalization import NORMALIZATION as NORMALIZATION
from statshift.recipes.rectification import RECTIFICATION as RECTIFICATION
from statshift.recipes.writing import as_yaml as as_yaml
