"""From a folder of pictures to a checked classifier: plan, head, loop, and the folder that a run writes."""

from mobilenets.training.run import Run, stored_plan, train

__all__ = ["Run", "stored_plan", "train"]
