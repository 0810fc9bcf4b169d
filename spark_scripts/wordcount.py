"""Count the words of text files, most frequent first, into one Parquet file of ``word`` and ``count``.

In a run every shard counts the words of its own files; a second step must add these counts up. ::

    python spark_scripts/wordcount.py --input some.txt --input 'more/*.txt' --output counts
"""

from sparklet.job import Job, stored_bytes


def main() -> None:
    """Count the words of the inputs, write the counts, and report how many words there are."""
    job = Job.from_args()
    spark = job.spark()
    words = spark.read.text(job.input_list()).selectExpr(r"explode(split(lower(value), '[^\\p{L}\\p{N}]+')) AS word")
    counts = words.where("word <> ''").groupBy("word").count().orderBy("count", "word", ascending=[False, True])
    counts.coalesce(1).write.mode("overwrite").parquet(job.output)
    rows = spark.read.parquet(job.output).count()  # from the file's footer
    job.report(rows=rows, output_bytes=stored_bytes(spark, job.output), outputs=[job.output])


if __name__ == "__main__":
    main()
