"""The catalogue of everything that the bridge reports about itself: one frozen value per event.

A value has a kind, which is stable and what code and queries go by; fields; a severity; and the
sentence for a person, which is made here and nowhere else. The modules are the rooms it comes from.
"""
