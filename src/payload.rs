//! What a request body says.
