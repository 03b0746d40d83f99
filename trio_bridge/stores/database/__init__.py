"""PostgreSQL: its connection, the schema, what its errors mean, and writing rows."""
