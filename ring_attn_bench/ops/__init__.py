"""The public functions as operators of torch's: what a graph that is traced has of them."""
