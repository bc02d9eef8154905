"""Queries over a cache: rows of one or of many pages, the heads of a group in one tile of rows.

`attend` gives each tile of rows and key head to one program, or to several, which share the keys
and leave float32 partials that `merge` joins; `append` writes new tokens and rotates, before them.
"""
