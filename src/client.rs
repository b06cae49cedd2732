//! IDENTIFY: which address is asking?
