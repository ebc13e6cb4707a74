"""Migrations of the database. Alembic runs them when it is opened."""
