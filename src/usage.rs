//! ACCOUNT: token counts, read from passing chunks.
