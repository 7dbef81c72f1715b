"""Rankings by people: a page and a terminal form over one SQLite file.

Samples are read (`samples`) into the store (`store`), which hands items out in a chosen order
(`order`) and keeps rankings; `progress` counts them and measures agreement; `api` serves the page,
`terminal` does without a browser; `export` writes what other tools read. `data=labels` trains on
the file itself: its layout and its rows are in `hydralign.data.label_database`.
"""
