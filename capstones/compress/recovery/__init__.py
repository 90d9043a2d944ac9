"""Short training after compression, with the dense model as the teacher."""
