"""Counts the days of each kind of weather in files of raw observations.

The same way of running as the Go pipelines, in Python: the parameters are flags, and the flags that the Dataflow emulator adds (--runner, --job_endpoint,
--environment_type, --job_name) are Beam's own. Needs the package apache-beam, with its gcp extra for gs:// paths.
"""

import argparse
import csv

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

HEADER = "date,precipitation,temp_max,temp_min,wind,weather"


class Kind(beam.DoFn):
    """Gives the kind of weather of each row; header, empty lines and comments are not rows."""

    def __init__(self):
        self.rows_read = Metrics.counter("weather", "rows_read")

    def process(self, line):
        if not line or line == HEADER or line.startswith("#"):
            return
        self.rows_read.inc()
        row = next(csv.reader([line]))
        yield row[5] if len(row) == 6 else "unreadable"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="file or pattern of raw rows")
    parser.add_argument("--output", required=True, help="file for the counts, as CSV")
    parameters, beam_arguments = parser.parse_known_args(argv)

    with beam.Pipeline(options=PipelineOptions(beam_arguments, save_main_session=False)) as pipeline:
        (
            pipeline
            | "Read" >> beam.io.ReadFromText(parameters.input)
            | "Kind" >> beam.ParDo(Kind())
            | "Count" >> beam.combiners.Count.PerElement()
            # One list, so that the order of the lines does not depend on the runner.
            | "Gather" >> beam.combiners.ToList()
            | "Sort" >> beam.FlatMap(sorted)
            | "Line" >> beam.MapTuple(lambda kind, days: f"{kind},{days}")
            | "Write" >> beam.io.WriteToText(parameters.output, num_shards=1, shard_name_template="", header="weather,days")
        )


if __name__ == "__main__":
    main()
