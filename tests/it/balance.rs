//! Seats, the queue, and the choice of an instance.
