"""The authors' experiments as configurations: a recipe is a value that says what to train or measure, by label.

`RECIPES` has functions that return them by name; `writing` writes one to a file to edit, and `files` reads it.
"""

from statshift.recipes.analyses.branches import AUTHORS_BRANCH as AUTHORS_BRANCH
from statshift.recipes.analyses.branches import authors_branch as authors_branch
from statshift.recipes.analyses.registry import ANALYSES as ANALYSES
from statshift.recipes.analysing import AnalysisRecipe as AnalysisRecipe
from statshift.recipes.catalogue import NOT_HERE as NOT_HERE
from statshift.recipes.catalogue import RECIPES as RECIPES
from statshift.recipes.catalogue import changed as changed
from statshift.recipes.catalogue import recipe as recipe
from statshift.recipes.comparison import conditions_text as conditions_text
from statshift.recipes.configuration import Found as Found
from statshift.recipes.configuration import Recipe as Recipe
from statshift.recipes.description import NOT_PRINTED as NOT_PRINTED
from statshift.recipes.description import describe as describe
from statshift.recipes.description import in_percent as in_percent
from statshift.recipes.description import name_of as name_of
from statshift.recipes.domains import DomainRecipe as DomainRecipe
from statshift.recipes.faults import RecipeError as RecipeError
from statshift.recipes.files import read_recipe as read_recipe
from statshift.recipes.measuring import MeasuringRecipe as MeasuringRecipe
from statshift.recipes.networks import Network as Network
from statshift.recipes.papers.advbn import HARDENING as HARDENING
from statshift.recipes.papers.normalization import NORMALIZATION as NORMALIZATION
from statshift.recipes.papers.rectification import RECTIFICATION as RECTIFICATION
from statshift.recipes.papers.segmentation import SEGMENTATION as SEGMENTATION
from statshift.recipes.papers.trained import MEASURING as MEASURING
from statshift.recipes.parts import DataPart as DataPart
from statshift.recipes.sources import BASE as BASE
from statshift.recipes.sources import COLUMNS as COLUMNS
from statshift.recipes.sources import DATA_SETS as DATA_SETS
from statshift.recipes.sources import PAPERS as PAPERS
from statshift.recipes.sources import RECTIFIED as RECTIFIED
from statshift.recipes.sources import places as places
from statshift.recipes.tables import own_figures as own_figures
from statshift.recipes.training import TrainingRecipe as TrainingRecipe
from statshift.recipes.writing import as_yaml as as_yaml
