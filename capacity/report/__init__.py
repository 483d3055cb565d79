"""The executive report: one set of figures as JSON, Markdown, HTML or a terminal table, in Portuguese or English."""
