"""The local web page of ``xmodaler app``: a picture in, its caption with words, boxes and attention out."""
