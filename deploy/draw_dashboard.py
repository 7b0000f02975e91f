"""Draws the panels of deploy/grafana.json from what Prometheus found for their queries: draw_dashboard.py IN.json OUT.svg

`make dashboard` runs the test of the alerts, which keeps in IN.json what each query found of real gateways under traffic
and faults, and then this. Grafana draws the same queries; this needs matplotlib alone.
"""

import json
import math
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

source, target = sys.argv[1:]
with open(source) as file:
    found = json.load(file)
with open("deploy/grafana.json") as file:
    dashboard = json.load(file)

panels = dashboard["panels"]
stamps = [float(at) for query in found for series in query["series"] for at, _ in series["values"]]
begin = min(stamps)

plt.rcParams.update({"font.size": 7, "svg.fonttype": "none", "svg.hashsalt": "idempotency"})
columns = 3
rows = math.ceil(len(panels) / columns)
figure, places = plt.subplots(rows, columns, figsize=(12, 2.2 * rows), squeeze=False, layout="constrained")
for place in places.flat:
    place.set_visible(False)
for place, panel in zip(places.flat, panels):
    place.set_visible(True)
    place.set_title(panel["title"], loc="left", fontweight="bold")
    queries = [query for query in found if query["panel"] == panel["title"]]
    for query, goal in zip(queries, panel["targets"]):
        for series in query["series"]:
            label = goal["legendFormat"]
            for name, value in series["metric"].items():
                label = label.replace("{{" + name + "}}", value)
            label = label if "{{" not in label else "none"
            points = [(float(at) - begin, float(value)) for at, value in series["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            place.plot([at for at, _ in points], [value for _, value in points], label=label, linewidth=1)
    place.set_ylim(bottom=0)
    place.grid(alpha=0.3)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    place.set_ylabel({"reqps": "per s", "ops": "per s", "short": "", "percentunit": "share"}.get(unit, unit))
    if place.get_legend_handles_labels()[1]:
        place.legend(loc="upper left", fontsize=6, framealpha=0.6)
figure.suptitle("Idempotency: seconds since the gateways were started", fontsize=9)
figure.savefig(target, metadata={"Date": None})
