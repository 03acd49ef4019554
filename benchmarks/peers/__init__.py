"""The same networks trained by flaxcnn and by its peers, in turn, in one run.

    python -m benchmarks.peers
    python -m benchmarks.peers --models mnist-ladder/model10 --peers flaxcnn,torch --repeats 5

Every peer is a process of its own with a model built from the same recipe. The processes take
turns, block after block, so that whatever else the machine does falls on all of them alike.
"""
