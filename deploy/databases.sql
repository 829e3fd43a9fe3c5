-- Beside the study's own database: MLflow's store, and its users.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_users;
