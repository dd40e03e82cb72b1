"""Records in; statistics, tables and figures out: a function of records and published numbers."""
