"""Records, the data sets that offer them, and the way from text to batches of tokens.

A data set is read into rows (`sources`, `movie_reviews`), its rows are mapped to records and split
(`mapping`, `splits`), records are encoded (`encode`), and examples are batched (`loaders`,
`collate`, `module`).
"""
