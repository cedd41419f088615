//! What the layers do to requests, through the layers.

mod support;
