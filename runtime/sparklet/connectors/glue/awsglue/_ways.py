"""What to write instead of each name, option and format of Glue's library that Sparklet does not have."""

DATABASES = "spark.read.jdbc(url, table) or frame.toDF().write.jdbc(url, table), see docs/guide/databases.md"
STREAMS = "job.records() of an event, or spark.readStream and foreachBatch, see docs/guide/streams.md"
LAKES = "spark.read.format(…).load(path), and job.append to write, see docs/guide/tables.md"
NEW_PARTITIONS = "sparklet ddl RUN, which prints the statements for a run's partitions and columns"

NAMES = {  # Glue's names by what to write instead; in lower case, without underscores
    'frame.toDF().select("struct.*"), and explode() for arrays': "unnestddbjson simplifyddbjson",
    "sparklet run --isolate: what Spark cannot read fails, and frames hold no error records": "errorsasdynamicframe "
    "errorscount stageerrorscount asserterrorthreshold",
    "a loop over the keys of a collection": "flatmap map maptocollection",
    "create_dynamic_frame, and frame.toDF().limit(n)": "createsampledynamicframefromcatalog "
    "createsampledynamicframefromoptions",
    "none: governed tables have ended; job.append adds each row once": "starttransaction committransaction "
    "canceltransaction",
    'boto3.client("s3"), or a lifecycle rule of the bucket': "purgetable purges3path transitiontable transitions3path",
    "the methods of frame.toDF().rdd": "mappartitions mappartitionswithindex",
    "glueContext.write_dynamic_frame.from_options(frame, …)": "write writefromoptions datasink",
    "glueContext.create_dynamic_frame.from_options(…)": "getsource datasource",
    "glueContext.create_data_frame.from_catalog(database, table).schema": "getcatalogschemaassparkschema",
    "DynamicFrame.fromDF(glueContext.createDataFrame(rdd, schema), glueContext)": "fromrdd withframeschema",
    "frame.toDF().withColumn(name, from_json(col(name), schema))": "unbox",
    'frame.toDF().withColumn("ingest_year", year(current_timestamp())) and so on': "addingestiontimecolumns",
    'frame.toDF().join(stage.toDF(), keys, "left_anti").unionByName(stage.toDF())': "mergedynamicframe",
    "frame.toDF().where(condition), and where(~condition)": "splitrows",
    "frame.toDF().limit(n).write.json(path)": "spigot",
    "frame.select_fields(paths) and frame.drop_fields(paths)": "splitfields",
    "int(time.time() * 1000)": "currenttimemillis",
    "from awsgluedq.transforms import EvaluateDataQuality": "evaluatedataquality awsgluedq",
    "StructField and other types of pyspark.sql.types": "field choicetype",
    # options
    'spark.read and its column "_metadata.file_path"': "attachfilename attachtimestamp",
    "sparklet run with --max-objects or --shard-size": "boundedfiles boundedsize",
    NEW_PARTITIONS: "enableupdatecatalog updatebehavior",
    "a table of this account, or spark.read with its folder": "catalogid",
    'nothing to read .gz and .bz2, and "compression" to write': "compressiontype",
    "sparklet run --exclude GLOB, or spark.read with pathGlobFilter": "exclusions",
    'spark.read.json(path).select("a.b"), and explode() for arrays': "jsonpath",
    "spark.read with header and schema, or frame.toDF().where(condition)": "skipfirst",
    "nothing: Spark's reader knows Avro's logical types": "version",
    # types of connections, and formats
    DATABASES: "fromjdbcconf extractjdbcconf jdbc mysql oracle postgresql redshift snowflake sqlserver",
    STREAMS: "foreachbatch getsamplestreamingdynamicframe getstreamingsource kafka kinesis",
    LAKES: "delta hudi iceberg",
    "boto3, or an export of the table to S3 as the run's input": "dynamodb",
    "spark.read.text(path) and regexp_extract()": "groklog ion",
    'spark.read.format("xml"), with the jar of spark-xml before Spark 4': "xml",
}
WAYS = {name: way for way, names in NAMES.items() for name in names.split()}
