#!/bin/sh
# The container's entry: a handler's name for Lambda (behind the runtime interface emulator where there is no Lambda),
# or a command of Spark's to try things out.
set -eu
case "${1-}" in
    "")
        echo "entrypoint: name a handler (sparklet.worker.handler.lambda_handler) or a command (python, spark-submit, …)" >&2
        exit 2
        ;;
    python | python3)
        shift
        exec python3 "$@"
        ;;
    pyspark | spark-submit | spark-sql)
        exec "/opt/spark/bin/$@"
        ;;
    shard)
        shift
        exec python3 -m sparklet.worker.one_shard "$@"
        ;;
esac
if [ -z "${AWS_LAMBDA_RUNTIME_API-}" ] && [ -x /usr/local/bin/aws-lambda-rie ]; then
    exec /usr/local/bin/aws-lambda-rie python3 -m awslambdaric "$1"
fi
exec python3 -m awslambdaric "$1"
