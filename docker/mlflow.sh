#!/bin/sh
# MLflow reads the address of its user database from a file; the password must not be in an image,
# nor among a command's arguments, which every process of the machine may read.
set -eu
umask 077
cat > /state/basic_auth.ini <<INI
[mlflow]
default_permission = READ
database_uri = postgresql://fmbseg:${POSTGRES_PASSWORD}@postgres/mlflow_auth
admin_username = admin
admin_password = ${MLFLOW_AUTH_ADMIN_PASSWORD}
INI
export MLFLOW_AUTH_CONFIG_PATH=/state/basic_auth.ini
export MLFLOW_BACKEND_STORE_URI="postgresql://fmbseg:${POSTGRES_PASSWORD}@postgres/mlflow"
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 2 \
  --artifacts-destination "${MLFLOW_ARTIFACTS:-/state/artifacts}" --serve-artifacts
