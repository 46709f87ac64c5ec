"""The one-file HTML reports of a search and of an evaluation.

    search_report.py  search.json -> page      evaluation_report.py  metrics.json and examples -> page
    trial_view.py     one trial                charts.py             scales, ticks, axes
    search_charts.py  curves and slices        parallel.py           all parameters side by side
    confirmation.py   winner against default   stopping.py           what ASHA saved
    words.py          numbers and seconds as text
    page.py           fills in templates/: HTML with inline SVG, style and a few lines of script

Comes in: plain mappings, as JSON reads them, with text of users. Goes out: HTML that opens offline, prints, and
follows the reader's light or dark theme. Charts are inline SVG: a report weighs 40 to 100 kB, where a plotting
library adds 4.7 MB. Must not know torch, ray or mlflow.
"""

from t5ray.report.evaluation_report import render_evaluation
from t5ray.report.search_report import render_search

__all__ = ["render_evaluation", "render_search"]
