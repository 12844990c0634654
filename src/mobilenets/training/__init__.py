"""From a folder of pictures to a checked classifier: plan, head, loop, and the folder that a run writes."""

from mobilenets.training.run import Run, check_choices, train
from mobilenets.training.run_folder import stored_plan

__all__ = ["Run", "check_choices", "stored_plan", "train"]
