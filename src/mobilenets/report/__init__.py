"""What a run looks like to a person: pictures, tables and one HTML page that can be mailed."""

from mobilenets.report.output import write_report
from mobilenets.report.sheets import sheet, write_sheet

__all__ = ["sheet", "write_report", "write_sheet"]
