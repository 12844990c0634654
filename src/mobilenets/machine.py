"""What the program runs on, in words for a log, a report and a certificate."""

import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's model name, as exactly as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def describe() -> dict[str, str]:
    """Processor, cores, system and Python: label → text. No host or user name."""
    return {
        "processor": cpu_name(),
        "cores": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
