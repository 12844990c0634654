"""What a run looks like to a person: pictures, tables and one HTML page that can be mailed."""
