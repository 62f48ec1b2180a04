"""Answers that are held to a form: JSON of a schema, a regular expression, a grammar."""
