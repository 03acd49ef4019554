"""A catalog run and tabulated: the queue, its rows, verdicts, and the pages made from them."""
