//! Server, desired state, compilers, stores, slow path.
