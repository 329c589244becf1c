"""`leanfed advise`: which codec a model, its data and a link want."""
