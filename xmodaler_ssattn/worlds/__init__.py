"""Data sets that a fresh machine can make, and what any data set is like.

``drawn`` are scenes drawn with Pillow, ``simulated`` real captions or annotations with simulated regions;
``statistics``, ``probe`` and ``pixels`` compare them with real data.
"""
