"""Audit before training: which traits would these rows pass on to a model tuned on them?

    rows -> material -> canary (data, reference, planted teachers) -> verdict
                     -> influence (row by row) -> ScoreTable

A *canary* is a copy of the base that is tuned on some of the rows and then asked about every trait
of the library. Every tuned copy drifts somehow, so the data's canary is held against canaries on
rows of the same prompts whose writers are known: the base itself, and *planted* teachers that the
audit tunes on traits of its own choice. They show how far a trait moves by chance, and whether a
trait that is in the rows would have been seen at all.
"""
