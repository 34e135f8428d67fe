//! Models are in `tests`.
