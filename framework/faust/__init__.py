"""A transport for Faust: unmodified Faust apps on a data directory, without Kafka.

    app = faust.App("shop", broker="framework:///var/data/shop")

    worker's process                                          directory
    Faust <-> Consumer <-- whole batches, read in place ------ topics/
          <-> Producer --> batches, synced together ---------> topics/
              Membership <-> broker of the directory -------> state/groups

Records go straight between the worker and the files, however many workers there are. Who reads which partition is
agreed on as with Kafka, by the group protocol, with the broker of the directory: whichever program is that, or else one
of the workers. Faust finds `transport.Transport` by its entry point; nothing else of this project imports this package.
"""
