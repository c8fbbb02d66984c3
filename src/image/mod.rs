//! Images: archives, the store, and flattening into one EROFS file.
