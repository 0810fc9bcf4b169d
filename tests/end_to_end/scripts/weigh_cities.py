"""Answer with the length of each city's name; fail at the city that the parameter ``fail_on`` names."""

from sparklet.job import Job

job = Job.from_args()
for item in job.items:
    if item["city"] == job.params.get("fail_on"):
        raise ValueError(f"{item['city']} is not to my taste")
job.answer({item["city"]: len(item["city"]) for item in job.items})
