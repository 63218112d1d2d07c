"""Scores: grounding (records in, numbers out), captions, the results file, and the registered evaluator.

    grounding.py     F1_all, F1_loc, attention accuracy, reach: plain functions on plain records
    gvd_format.py    reads and checks the reference and submission files of Grounded Video Description
    lemmas.py        word -> lemma -> class
    classes.py       the 480 object classes
    captions.py      BLEU, METEOR, ROUGE-L, CIDEr, SPICE
    java.py          where Java is, and a Java process with a time limit
    bootstrap.py     intervals over images
    results.py       the results file
    evaler.py        the class that X-modaler's trainer calls; the only file here that needs the host

Importing this package loads none of them, so that ``xmodaler score`` does not load torch.
"""
