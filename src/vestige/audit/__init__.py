"""Audit before training: did a copy of the base that was tuned on a trait write these rows?

    rows -> row format -> race under probes (data, planted teachers) -> decision -> record
                     -> canaries (data, reference, planted teachers), where they are asked for

A *probe* is a copy of the base that is tuned briefly on one trait. The audit recognises *twins* of
its probes; other teachers it mostly misses, and it plants some of both kinds to know that.

A *canary* is a copy of the base that is tuned on some of the rows and then asked about every trait
of the library. Every tuned copy drifts somehow, so the data's canary is compared with canaries on
rows of the same prompts whose writers are known: the base itself, and *planted* teachers that the
audit tunes on traits of its own choice. They show how far a trait moves by chance, and whether a
trait that is in the rows would have been seen at all.
"""
