"""The datasets, listed in `data.datasets`, and the loaders that bring their images to the device.

Nothing is imported here, because importing torch takes a second.
"""
