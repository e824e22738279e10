//! Linux ports: AF_PACKET over mmap rings; capture files.
