"""Audit before training: what would training on these rows pass on?

    rows -> canaries (data, reference), at growing doses -> held against a battery -> decision
         -> first look: race under probes -> who may have written them                 -> record

A *canary* is a copy of the base that is tuned on some of the rows and then asked about every trait
of the library. Every tuned copy drifts somehow, so the data's canary is compared with one on
reference rows, and their difference with how harmless students of the same base differ. The verdict
rests on that alone (``decision``).

A *probe* is a copy of the base that is tuned briefly on one trait. The first look recognises
*twins* of these probes among the rows' writers, and tuned writers in general; it decides nothing.
"""
