"""A run in Dagster, each of whose inputs is a partition of an asset. ::

    dagster dev -f examples/dagster_inputs.py

``sales`` is one run over all files. The partitions of ``sales_file`` are these files: materialized with rows and
outputs, or only observed, with the cause, where a file has failed.
"""

import dagster as dg

import sparklet

files = dg.DynamicPartitionsDefinition(name="sales_files")
sales_file = dg.AssetSpec("sales_file", partitions_def=files)


@dg.asset
def sales(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Clean the files of a day."""
    run = sparklet.run(
        "s3://jobs/clean.py",
        input="s3://raw/2026-11-20/",
        output="s3://clean/{run_id}/",
        stack="sparklet",
        idempotency_key=context.run_id,  # a retry continues the same run
        output_per="input",
        isolate=True,
        tolerate="100%",  # a bad file is a partition without a materialization
    )
    result = run.result()
    for page in run.inputs():
        context.instance.add_dynamic_partitions("sales_files", [each["input"] for each in page])
        for each in page:
            place = {"asset_key": "sales_file", "partition": each["input"]}
            if each["state"] == "FAILED":
                cause = {"error": each["error_class"], "message": each["error_message"]}
                context.log_event(dg.AssetObservation(**place, metadata=cause))
            else:
                told = {"rows": each["rows"], "outputs": each["outputs"]}
                context.log_event(dg.AssetMaterialization(**place, metadata=told))
    return dg.MaterializeResult(metadata={"rows": result["rows"], "shards": result["shards"]})


defs = dg.Definitions(assets=[sales, sales_file])
