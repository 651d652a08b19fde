"""The routes of the REST service, one file for each thing that it does."""
