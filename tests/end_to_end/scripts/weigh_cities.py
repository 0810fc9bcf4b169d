"""Items → an answer: how long the name of each city is; one named in a parameter is refused."""

from sparklet.job import Job

job = Job.from_args()
for item in job.items:
    if item["city"] == job.params.get("fail_on"):
        raise ValueError(f"{item['city']} is not to my taste")
job.answer({item["city"]: len(item["city"]) for item in job.items})
