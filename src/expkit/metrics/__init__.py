"""Judges that classify images, and measures of similarity between images and sets of images."""
