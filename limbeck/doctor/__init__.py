"""Everything that can be wrong with a recipe, looked for before GPU hours are spent: each check by itself, so that none hides another."""
