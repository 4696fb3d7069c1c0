"""Where bytes rest: one Protocol (`base`), one file per place."""
