//! SEAT.
