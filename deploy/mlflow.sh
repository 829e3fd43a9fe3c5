#!/bin/sh
# MLflow's server: users of its own, no job execution, no pickle, artifacts through the server.
set -eu
database="postgresql+psycopg://sweep:${POSTGRES_PASSWORD}@postgres"
cat >/tmp/auth.ini <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = ${database}/mlflow_users
admin_username = ${MLFLOW_USERNAME}
admin_password = ${MLFLOW_PASSWORD}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# a password is hashed anew only after so many seconds: a tenth of a second and more of a core, for each request
auth_cache_ttl_seconds = 60
END
export MLFLOW_AUTH_CONFIG_PATH=/tmp/auth.ini
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 2 \
    --allowed-hosts "mlflow.internal,127.0.0.1:*" --cors-allowed-origins "https://mlflow.internal" \
    --backend-store-uri "${database}/mlflow" --artifacts-destination /artifacts
