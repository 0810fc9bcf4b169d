#!/bin/sh
# The container's entry. Beside Lambda the same image tries scripts out, and does shards that need more than 15 minutes.
set -eu

usage() {
    cat <<'TEXT'
Sparklet's image: Spark in local mode, for AWS Lambda and beside it.

  docker run -it IMAGE pyspark [OPTIONS]              a PySpark shell
  docker run IMAGE spark-submit [OPTIONS] SCRIPT …    a script, once
  docker run IMAGE spark-sql -e 'SELECT 1'            SQL, with the table formats' extensions
  docker run IMAGE python …                           Python, with PySpark and Sparklet
  docker run IMAGE shard --run RUN --shard N          a shard of a run, without Lambda's 15 minutes (ECS; --help: more)
  docker run IMAGE sparklet.worker.handler.lambda_handler
                                                      the Lambda function; without Lambda it needs the runtime
                                                      interface emulator, mounted as /usr/local/bin/aws-lambda-rie

Everything is read-only but /tmp. AWS_REGION, AWS_ACCESS_KEY_ID, … and AWS_ENDPOINT_URL_S3 are heeded (docker run -e).
TEXT
}

case "${1-}" in
    --help | -h | help)
        usage
        exit 0
        ;;
    python | python3)
        shift
        exec python3 "$@"
        ;;
    pyspark | spark-submit | spark-sql)
        exec "$SPARK_HOME/bin/$@"
        ;;
    shard)
        shift
        exec python3 -P -m sparklet.engines.one_shard "$@"
        ;;
    *.*) ;; # module.function
    *)
        echo "entrypoint: '${1-}' is neither a handler (module.function) nor one of the commands here:" >&2
        usage >&2
        exit 64
        ;;
esac
# -P: a module that a script leaves in the working directory, /tmp, must not be imported here.
if [ -n "${AWS_LAMBDA_RUNTIME_API-}" ]; then
    exec python3 -P -m awslambdaric "$1"
elif [ -x /usr/local/bin/aws-lambda-rie ]; then
    exec /usr/local/bin/aws-lambda-rie python3 -P -m awslambdaric "$1"
fi
echo "entrypoint: there is no Lambda here (AWS_LAMBDA_RUNTIME_API is not set), and no /usr/local/bin/aws-lambda-rie." >&2
usage >&2
exit 64
