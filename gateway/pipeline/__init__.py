"""From the items of a request to vectors and scores: the one place that orders the stages.

May import `gateway.images`, `gateway.inference`, `gateway.admission`, `gateway.models` and
`gateway.errors`; no protocol and no setting.
"""
