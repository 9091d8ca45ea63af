"""An index published to the vector stores of others: Parquet, LanceDB or PostgreSQL; searched in the last two."""
