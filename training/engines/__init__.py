"""Steps and epochs of a run, on TensorFlow or on images in the memory of the device."""
