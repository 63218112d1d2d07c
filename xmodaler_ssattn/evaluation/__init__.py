"""Scores: grounding (records in, numbers out), captions, the results file, and the registered evaluator.

    scoring.py           captions and groundings with their references -> scores with intervals, for all callers
Grounding
    grounding.py         F1_all, F1_loc, per sentence, per class: generated sentences
    forced.py            attention accuracy on the reference sentences, also by place and kind of word; reach of regions
    floors.py            the scores of rules without a model
    lemmas.py            word -> lemma -> class;  object_words.py: the words of a caption that name an object
    gvd_format.py        reads and checks reference and submission files of Grounded Video Description
Captions
    metrics/             the metrics, one file each
    ptb.py               the tokeniser;  java.py: finding Java, time limits, the files of pycocoevalcap
    caption_files.py     reads references and predictions
Both
    doubts.py            signs that a score is wrong although its files are well formed
    bootstrap.py         intervals over images, paired differences
    results.py           the results file
    evaler.py            the class that X-modaler's trainer calls; the only file here that needs the host

Importing this package loads none of these modules, so that scoring does not load torch.
"""
