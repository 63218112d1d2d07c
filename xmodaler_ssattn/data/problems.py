"""How long lists of problems are shown: ``errors.numbered``, under the name that the readers of data import."""

from xmodaler_ssattn.errors import numbered

__all__ = ["numbered"]
