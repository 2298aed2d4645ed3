"""Scores and predictions, one class a kind of task. What the scripts call:

- ``reset()``, ``update(outputs, batch)``, ``result() -> {name: float}``, ``result_with_failures(count)``;
- ``state()`` and ``merge(states)``: the sum over ranks, exchanged as plain Python and numpy values; each has
  seen a part of the list, one behind the other;
- ``decode(outputs, batch) -> [record]``: one JSON-ready dict a sample, ``"video"`` first;
- ``describe(record) -> str``: the lines that predict prints.

Optional:

- ``prepare()``: reads, before test and prediction, the files that training does without;
- ``draw(figure, record, sample)``: the picture of a record on an empty matplotlib Figure;
- ``page(record, sample) -> str``: an HTML page of it instead;
- ``draw_together(figure, records)``: likewise for all records of one video;
- ``running() -> {name: float}``: for the log's line of a batch, where ``result`` is costly or means little
  before the end;
- ``per_video(failed) -> (number, failed)``: after evaluation, where several samples make one video: how many
  videos there are, and a ``{"video", "error"}`` for each without a score;
- ``parts(record) -> [part]``: what of a record is drawn, where that is not just ``[record]``: nothing, or
  several things, each on its own (the sentences of a movie); ``draw`` gets the record with the entries of the
  part, and the part its ``"picture"``;
- ``combine(records) -> records``: after prediction, in list order, where several samples make one record
  (the clips of a video); a sample that failed is ``{"video", "error"}``;
- ``write_results(save_dir, records=None) -> [path]``: the result files of 2019. ``save_dir`` is None
  where ``--save_dir`` is not given: then the paths are the recipe's. After evaluation ``records`` is None:
  the metric writes what it was updated with.
"""
