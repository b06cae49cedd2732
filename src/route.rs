//! ROUTE: method and path to what is to be done.
