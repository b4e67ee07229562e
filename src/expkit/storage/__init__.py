"""Files on this machine, pretrained weights from a hub, and the device that a network runs on."""
