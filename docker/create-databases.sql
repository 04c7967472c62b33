-- Prefect's database is the one that POSTGRES_DB names; MLflow gets its own, and a third for users.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
