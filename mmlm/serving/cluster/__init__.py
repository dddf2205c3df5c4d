"""A server of several replicas on the machines of a Ray cluster.

`door` answers clients: it reads a request whole and passes it on to a replica. `replica` answers with the app that a
server of one machine has. `affinity` finds what requests have in common, so that the same picture finds the same
replica. `deployed` is what Ray Serve runs of these, `figures` what it tells of the engines, and `run` starts it.
"""
