"""A `Progress` for tests."""


class Heard:
    """Remembers what was said."""

    def __init__(self):
        self.lines = []

    def track(self, items, total, what, *, size=None):
        yield from items

    def say(self, line):
        self.lines.append(line)
