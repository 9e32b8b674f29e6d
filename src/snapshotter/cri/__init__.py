"""The image service that kubelet calls, and how images get into containerd."""
