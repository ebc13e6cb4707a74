"""Migrations of the records: Alembic runs them when the database is opened."""
