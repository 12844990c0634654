"""What the preprocessing detective found, as tables in a terminal."""

from mobilenets.cli.terminal import say, show_table
from mobilenets.weights.detective import Detection


def show_detection(detection: Detection) -> None:
    """One table for every question, the best row first, then what it comes to in sentences."""
    for aspect in detection.aspects:
        show_table(
            [
                (aspect.name, "left"),
                ("accuracy", "right"),
                ("95 % interval", "right"),
                ("log-probability", "right"),
                ("pictures", "right"),
                ("", "left"),
            ],
            [
                (
                    row.name,
                    f"{row.accuracy.value:.1%}",
                    f"{row.accuracy.low:.1%} – {row.accuracy.high:.1%}",
                    f"{row.log_probability:.2f}",
                    row.accuracy.n,
                    "chosen" if row is aspect.chosen else "tied" if row.tied else "",
                )
                for row in aspect.rows
            ],
        )
        say()
    for line in detection.findings:
        say(line)
