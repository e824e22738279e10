//! The desired state's validated types.
