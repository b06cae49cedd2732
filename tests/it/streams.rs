//! Streams: what passes, how soon, what is counted, and how they end.
