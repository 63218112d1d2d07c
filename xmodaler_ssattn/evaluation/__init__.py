"""Scores: grounding (records in, numbers out), captions, the results file, and the registered evaluator.

Grounding
    grounding.py         F1_all, F1_loc, per sentence, per class: generated sentences
    forced.py            attention accuracy on the reference sentences; reach of the regions
    lemmas.py            word -> lemma -> class;  classes.py: the 480 class names
    object_words.py      which words of a caption name an object, for scores and for whatever shows captions
    gvd_format.py        reads and checks reference and submission files of Grounded Video Description
    grounding_scorer.py  from captions that carry boxes to all of these scores
Captions
    captions.py          what can run, and one scorer for all metrics
    corpus.py            a metric over a corpus, kept as one row an image
    ptb.py, meteor.py, spice.py     the three Java programs;  java.py: where Java is, time limits;  jars.py: their files
    caption_files.py     reads references and predictions
Both
    doubts.py            what makes a score doubtful although its files are well formed
    bootstrap.py         intervals over images, paired differences
    results.py           the results file
    evaler.py            the class that X-modaler's trainer calls; the only file here that needs the host

Importing this package loads none of them, so that scoring does not load torch.
"""
