//! Names of models.
