//! The packet engine: buffers, frames, graph, workers, ports, snapshot publication.
