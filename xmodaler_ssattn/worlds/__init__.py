"""Data sets that can be made on any machine, and statistics of data sets.

``drawn`` are scenes drawn with Pillow, ``simulated`` real captions or annotations with simulated regions;
``statistics``, ``probe`` and ``pixels`` compare them with real data.
"""
